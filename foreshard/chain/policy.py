"""What the memory of a layout should do: the regime of the log, and the policy that the do-no-harm gate chooses."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from foreshard.access.chunk_trace import LayoutTouches, thinned
from foreshard.access.history import History
from foreshard.access.trace import Trace
from foreshard.chain.context import Context, Inputs
from foreshard.chain.result import Scalar
from foreshard.chain.tables import StoredTable
from foreshard.forecast.gate import WARM_UP, PolicyChoice, choose_policy
from foreshard.forecast.hindsight import known_before
from foreshard.forecast.judging import scored_from, whole_epochs
from foreshard.forecast.regime import Regime, detect_regime
from foreshard.keys import LayoutRef
from foreshard.prefetch.manifest import PIN_ALL, Advice
from foreshard.shards.manifest import Manifest

POLICY: Final = "policy"
"""Name of the document with the policy for the layout that was read."""

ADVICE: Final = "advice"
"""Name of the document with what the prefetch manifests of the layout that was made carry."""

STAGE_EVENTS: Final = "access/events"
STAGE_FORECAST: Final = "access/forecast"

_MOST_REQUESTS: Final = 1_000_000
"""Requests that are replayed at most: some ten seconds for all policies."""


def policy_of_events(
    context: Context, inputs: Inputs, events: StoredTable, history: History, chunks: NDArray[np.int32], model: str
) -> tuple[Regime, PolicyChoice | None]:
    """Tell the regime of a window's log, and choose a policy by how the parent's chunks were touched.

    Args:
        context: the shared context.
        inputs: what the generation is pinned to.
        events: the window's, rows of `EVENT_SCHEMA`.
        history: draws of the parent's training chunks.
        chunks: their numbers.
        model: the forecaster that pins.

    Returns:
        The regime; the choice, None where there is nothing to replay.
    """
    if inputs.parent is None:
        return detect_regime(history), None
    manifest = context.repository.open(inputs.parent)
    regime = detect_regime(history, nbytes=manifest.rows[chunks].astype(np.int64))
    trace, kept = _replayed(events, history, chunks, manifest)
    history = replace(history, counts=history.counts[:, kept])
    return regime, _choose(context, inputs, trace, history, regime, model)


def _replayed(
    events: StoredTable, history: History, chunks: NDArray[np.int32], manifest: Manifest
) -> tuple[Trace, NDArray[np.int64]]:
    """Return the touches that are replayed, and which of the chunks they are of: not all where there are many."""
    epochs, phases = np.unique(history.epochs).tolist(), history.phases_per_epoch
    last = pa.array(epochs[-_replayed_epochs(phases) :], pa.int32())

    def parts() -> Iterator[pa.Table]:
        for part in events.groups(("generation", "epoch", "rank", "step", "phase", "chunk")):
            yield part.filter(pc.is_in(part.column("epoch"), last))

    touches = LayoutTouches(chunks, manifest.header.generation, epochs, phases)
    kept = thinned(touches.requests(parts()), _MOST_REQUESTS)
    touches = replace(touches, chunks=chunks[kept])
    return touches.trace(parts(), manifest.nbytes[touches.chunks]), kept


def _replayed_epochs(phases: int) -> int:
    """Epochs that hold the windows that the gate replays; older events need not be looked at."""
    return -(-(WARM_UP + whole_epochs(phases).scored) // phases)


def advice_for(context: Context, inputs: Inputs, manifest: Manifest) -> tuple[Advice, str]:
    """Return what a layout's prefetch manifests are to carry, and why; written as `advice`.

    A layout that packs other chunks than the one that was read was not tried: packing hot samples together is what
    makes pinning pay, and a log cannot tell how a layout would have done that was made from it. It is pinned as
    forecast until its own log tells, unless the log drifts: that does not depend on the packing.
    """
    work = context.work(inputs.generation)
    stored = work.find_json(POLICY)
    if stored is None:
        advice, reason = PIN_ALL, "There is no log yet to try a policy on."
    elif stored["policy"] is None:
        advice, reason = replace(PIN_ALL, regime=stored["regime"]["kind"]), stored["reason"]
    elif stored["regime"]["kind"] == "drift" or _same_chunks(context, inputs, manifest):
        advice, reason = Advice(stored["policy"], stored["pin_fraction"], stored["regime"]["kind"]), stored["reason"]
    else:
        advice = replace(PIN_ALL, regime=stored["regime"]["kind"])
        reason = "This layout packs other chunks than the one that was read: they are pinned as forecast until read."
    work.put_json(ADVICE, {**asdict(advice), "reason": reason})
    return advice, reason


def _same_chunks(context: Context, inputs: Inputs, manifest: Manifest) -> bool:
    parent = context.repository.open(inputs.parent) if inputs.parent is not None else None
    return parent is not None and np.array_equal(parent.chunk_of, manifest.chunk_of)


def _choose(
    context: Context, inputs: Inputs, trace: Trace, history: History, regime: Regime, model: str
) -> PolicyChoice | None:
    if trace.windows < 2 or not len(trace.window(trace.windows - 1)):  # noqa: PLR2004 - one to learn from, one to try
        return None
    rules = whole_epochs(trace.phases_per_epoch)
    # A prefetch manifest is made when an epoch begins, and what it pins stays for the whole of it.
    expected = known_before(history, model, scored_from(trace.windows, rules), by_phase=False)
    share = context.config.loader.cache_fraction
    return choose_policy(trace, expected, share, current=_current(context, inputs), regime=regime, rules=rules)


def _current(context: Context, inputs: Inputs) -> str | None:
    """The policy of the layout that was read, so that it stays unless another is clearly better."""
    if inputs.parent is None:
        return None
    stored = context.work(inputs.parent.generation).find_json(ADVICE)
    return stored["policy"] if stored else None


def policy_document(regime: Regime, choice: PolicyChoice | None, layout: LayoutRef | None) -> dict[str, Any]:
    """Return what a stage stores; `policy` is None where nothing could be tried, and everything is pinned then."""
    return {
        "layout": layout and layout.generation,
        "policy": choice and choice.name,
        "pin_fraction": choice.pin_fraction if choice else PIN_ALL.pin_fraction,
        "reason": choice.reason if choice else "There is too little to try a policy on.",
        "regime": regime.to_json(),
    }


def policy_figures(document: dict[str, Any]) -> dict[str, Scalar]:
    """Return the document in figures for a report."""
    regime = document["regime"]
    return {
        "regime": regime["kind"],
        "regime_in_words": regime["words"],
        "policy": document["policy"],
        "pin_fraction": document["pin_fraction"],
        "policy_reason": document["reason"],
    }


def regime_rows(document: dict[str, Any]) -> list[dict[str, Scalar]]:
    """Return the evidence for the regime as rows of a report."""
    figures = {name: value for name, value in document["regime"].items() if name not in ("kind", "words")}
    return [{"figure": name, "value": value} for name, value in figures.items() if value is not None]
