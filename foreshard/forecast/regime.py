"""What kind of access a log shows, before anything is forecast from it: is there something to predict at all?

Kinds and thresholds follow research/forecast.md §2b, §2c and §4.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from foreshard.access.history import History
from foreshard.access.trace import Trace
from foreshard.forecast.regime_evidence import CLEAR, Evidence, gather_evidence

RegimeKind = Literal["uniform", "popularity", "drift", "seasonal"]

_ALL: Final = 0.98
"""Share from which exactness counts as the rule: logs lose a few events. Where as many requests go to objects never
seen before, nothing is read a second time, and what is in memory is of no use."""

_EQUAL_RATES: Final = 0.1
"""Coefficient of variation of the rates below which it does not pay to tell objects apart."""

_EXACT_RATES: Final = 0.25
"""The same where counts repeat exactly: requests per byte differ a little, as rows do."""

_HEAVY_HEAD: Final = 0.5
"""Share of requests to a tenth of the objects that sizes do not explain, where sizes are not known."""

_SEASON: Final = 0.1
"""Seasonal gain from which phases are worth telling apart."""

_UNSEEN: Final = 0.1
"""Share of requests to new objects beyond which room must be left for them (research/forecast.md §4)."""

_PERSISTENT: Final = 0.8
"""Persistence below which what was wanted is not what will be."""

_LASTING: Final = 0.7
"""The same for the overlap over half the log, as a share of that of adjacent windows."""


@dataclass(frozen=True)
class Regime:
    """What kind of access it is.

    Attributes:
        kind: `uniform` (nothing to predict but a known order), `popularity` (some objects are wanted more, and stay
            so), `drift` (what is wanted changes, or is new) or `seasonal` (wanted in the same phase of each epoch).
        evidence: the figures behind it.
        words: one sentence.
    """

    kind: RegimeKind
    evidence: Evidence
    words: str

    def to_json(self) -> dict[str, str | float | None]:
        """Return kind, words and figures as JSON values."""
        return {"kind": self.kind, "words": self.words, **asdict(self.evidence)}


def detect_regime(
    log: History | Trace, nbytes: NDArray[np.int64] | None = None, *, history: History | None = None
) -> Regime:
    """Tell what kind of access a log shows.

    Args:
        log: at least one window with a request.
        nbytes: int64 (C,), size of every object, or rows: how many requests each would get if all samples were wanted
            equally. None for the sizes of a trace, and for a history if they are not known.
        history: a trace's history, where it was made already: counts of many objects are not held twice.

    Raises:
        LogError: there is no request, or there are not as many sizes as objects.
    """
    history = history or (log.history() if isinstance(log, Trace) else log)
    if nbytes is None and isinstance(log, Trace) and not (log.nbytes == 1).all():
        nbytes = log.nbytes
    evidence, noise = gather_evidence(log if isinstance(log, Trace) else None, history, nbytes)
    objects = int((history.counts > 0).any(0).sum())
    kind = _kind(evidence, noise=noise, sized=nbytes is not None, objects=objects)
    return Regime(kind, evidence, _WORDS[kind](evidence))


def _kind(evidence: Evidence, *, noise: float, sized: bool, objects: int) -> RegimeKind:
    e = evidence
    if (e.seasonal_gain or 0.0) >= _SEASON and (e.seasonal_errors or 0.0) >= CLEAR:
        return "seasonal"
    spread = min(e.spread, e.object_spread)  # every byte as often as every other, or every object
    alike = spread <= _EXACT_RATES if sized else e.concentration < _HEAVY_HEAD
    repeated = (e.equal_share or 0.0) >= _ALL or (sized and e.dispersion is not None and e.dispersion < 1 / 2)
    independent = e.dispersion is None or e.dispersion <= 1 + max(0.1, CLEAR * np.sqrt(2 / objects))
    if (e.unseen or 0.0) <= _ALL and ((repeated and alike) or (independent and spread <= max(_EQUAL_RATES, noise))):
        return "uniform"
    lasting = e.overlap is None or e.overlap_far is None or e.overlap_far >= _LASTING * e.overlap
    persistent = e.persistence is None or e.persistence >= _PERSISTENT
    return "popularity" if (e.unseen or 0.0) <= _UNSEEN and persistent and lasting else "drift"


def _percent(share: float | None) -> str:
    return "an unknown share" if share is None else f"{share:.0%}"


def _uniform_words(e: Evidence) -> str:
    if (e.equal_share or 0.0) >= _ALL:
        what = f"{e.equal_share:.0%} of the objects were read equally often in every epoch"
    elif (e.rounds or 0.0) >= _ALL:
        what = f"{e.rounds:.0%} of the requests came in rounds over all objects"
    else:
        what = f"rates differ by {min(e.spread, e.object_spread):.0%} beyond counting noise"
    return f"Uniform: {what}; there is nothing to predict, so keep what is in memory and use the known order."


def _popularity_words(e: Evidence) -> str:
    return (
        f"Popularity: a tenth of the objects got {e.concentration:.0%} of the requests, and {_percent(e.unseen)} went "
        "to objects not seen before; what was wanted will be wanted again."
    )


def _drift_words(e: Evidence) -> str:
    return (
        f"Drift: {_percent(e.unseen)} of the requests went to objects not seen before, and the objects wanted most "
        f"overlap by {_percent(e.overlap)} from window to window, by {_percent(e.overlap_far)} over half the log; "
        "forecasts age fast, so leave room for what is new."
    )


def _seasonal_words(e: Evidence) -> str:
    return (
        f"Seasonal: the phase of the epoch explains {_percent(e.seasonal_gain)} of how requests vary; fetch what the "
        "next phase wants."
    )


_WORDS: Final[Mapping[RegimeKind, Callable[[Evidence], str]]] = {
    "uniform": _uniform_words,
    "popularity": _popularity_words,
    "drift": _drift_words,
    "seasonal": _seasonal_words,
}
