"""What the memory of a layout should do: the regime of the log, and the policy that the do-no-harm gate chooses."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.access.chunk_trace import events_trace, samples_trace, thin
from foreshard.access.history import History, chunk_history
from foreshard.access.trace import Trace
from foreshard.chain.context import Context, Inputs
from foreshard.chain.result import Scalar
from foreshard.forecast.gate import PolicyChoice, choose_policy
from foreshard.forecast.regime import Regime, detect_regime
from foreshard.forecast.registry import make_forecasters
from foreshard.keys import LayoutRef
from foreshard.prefetch.manifest import PIN_ALL, Advice
from foreshard.shards.manifest import Manifest
from foreshard.splits import split_code

POLICY: Final = "policy"
"""Name of the document with the policy for the layout that was read."""

LAYOUT_POLICY: Final = "layout_policy"
"""Name of the document with the policy for the layout that was made."""

STAGE_EVENTS: Final = "access/events"
STAGE_FORECAST: Final = "access/forecast"

_MOST_REQUESTS: Final = 1_000_000
"""Requests that are replayed at most: some ten seconds for all policies."""

_ALWAYS_FITS: Final = "ewma"


def policy_of_events(
    context: Context, inputs: Inputs, events: pa.Table, history: History, chunks: NDArray[np.int32], model: str
) -> tuple[Regime, PolicyChoice | None]:
    """Tell the regime of a window's log, and choose a policy by how the parent's chunks were touched.

    Args:
        context: the shared context.
        inputs: what the generation is pinned to.
        events: rows of `EVENT_SCHEMA`.
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
    epochs, phases = np.unique(history.epochs).tolist(), history.phases_per_epoch
    sizes = manifest.nbytes[chunks]
    generation = manifest.header.generation
    trace = events_trace(events, chunks, sizes, generation=generation, epochs=epochs, phases=phases)
    return regime, _choose(context, inputs, trace, history, regime, model)


def policy_of_layout(context: Context, inputs: Inputs, manifest: Manifest) -> dict[str, Any] | None:
    """Return the policy for a layout that was made from a log, as `policy_document`; None for a first layout.

    If the parent packs the same chunks, it is what the forecast stage chose. If not, how the parent's chunks were
    touched does not tell: packing hot samples together is what makes pinning pay. It is chosen from the samples drawn
    then, as if those of a phase had come in any order, and written as `layout_policy`.

    Raises:
        StorageError: a stage before has not run.
    """
    if inputs.bootstrap:
        return None
    work = context.work(inputs.generation)
    stored = work.find_json(POLICY)
    parent = context.repository.open(inputs.parent) if inputs.parent is not None else None
    if stored is not None and parent is not None and np.array_equal(parent.chunk_of, manifest.chunk_of):
        return stored
    chunks = np.flatnonzero(manifest.splits == split_code("train")).astype(np.int32)
    samples, phases = work.table("samples", stage=STAGE_EVENTS), context.config.loader.phases
    whole = chunk_history(samples, manifest.chunk_of, len(manifest), phases)
    history = replace(whole, counts=whole.counts[:, chunks])
    regime = detect_regime(history, nbytes=manifest.rows[chunks].astype(np.int64))
    epochs, sizes = np.unique(history.epochs).tolist(), manifest.nbytes[chunks]
    trace = samples_trace(samples, manifest.chunk_of, chunks, sizes, epochs=epochs, phases=phases)
    model = work.json("forecast", stage=STAGE_FORECAST)["model"]
    choice = _choose(context, inputs, trace, history, regime, model)
    document = policy_document(regime, choice, manifest.ref)
    work.put_json(LAYOUT_POLICY, document)
    return document


def _choose(
    context: Context, inputs: Inputs, trace: Trace, history: History, regime: Regime, model: str
) -> PolicyChoice | None:
    if trace.windows < 2 or not len(trace.window(trace.windows - 1)):  # noqa: PLR2004 - one to learn from, one to try
        return None
    trace, history = thin(trace, history, _MOST_REQUESTS)
    expected = _next_epoch(history, model)
    share = context.config.loader.cache_fraction
    return choose_policy(trace, expected, share, current=_current(context, inputs), regime=regime)


def _next_epoch(history: History, model: str) -> Callable[[int], NDArray[np.float64]]:
    """What a prefetch manifest would have been made of at each window: draws of the epoch from there on."""

    def expected(window: int) -> NDArray[np.float64]:
        past = history.until(window)
        forecaster = make_forecasters([model])[model]
        if past.windows < forecaster.min_windows:
            forecaster = make_forecasters([_ALWAYS_FITS])[_ALWAYS_FITS]
        return forecaster.fit(past).predict(history.phases_per_epoch).expected.sum(0)

    return expected


def _current(context: Context, inputs: Inputs) -> str | None:
    """The policy of the layout that was read, so that it stays unless another is clearly better."""
    if inputs.parent is None:
        return None
    work = context.work(inputs.parent.generation)
    stored = work.find_json(LAYOUT_POLICY) or work.find_json(POLICY)
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


def advice_from(document: dict[str, Any] | None) -> Advice:
    """Return what a prefetch manifest is to carry."""
    if document is None or document["policy"] is None:
        return PIN_ALL
    return Advice(document["policy"], document["pin_fraction"], document["regime"]["kind"])
