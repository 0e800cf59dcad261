"""What kind of access a log shows, before anything is forecast from it: is there something to predict at all?

Kinds and thresholds follow research/forecast.md §2b, §2c and §4. Measures that would take counting noise for change are
built from products of different windows: independent Poisson counts are as uncorrelated as what they are counts of.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from foreshard.access.history import History
from foreshard.access.trace import Trace
from foreshard.errors import LogError

RegimeKind = Literal["uniform", "popularity", "drift", "seasonal"]

_FULL_EPOCH: Final = 0.9
"""Share of the median epoch's requests that an epoch needs to count as a whole one."""

_ALL: Final = 0.98
"""Share from which exactness counts as the rule: logs lose a few events."""

_EQUAL_RATES: Final = 0.1
"""Coefficient of variation of the rates below which it does not pay to tell objects apart."""

_EXACT_RATES: Final = 0.25
"""The same where counts repeat exactly: requests per byte differ a little, as rows do."""

_HEAVY_HEAD: Final = 0.5
"""Share of requests to a tenth of the objects that sizes do not explain, where sizes are not known."""

_CLEAR: Final = 4.0
"""Standard errors beyond which a figure is not noise."""

_SEASON: Final = 0.1
_UNSEEN: Final = 0.1
_PERSISTENT: Final = 0.8
_LASTING: Final = 0.7
_TOP: Final = 0.1


@dataclass(frozen=True)
class Evidence:
    """Figures that a regime is told by; None where the log is too short for one.

    Attributes:
        equal_share: share of objects that were read equally often in every whole epoch.
        rounds: share of requests that came when every other object had been read as often, or once more or less; None
            for a history, which knows no order within a window.
        dispersion: variance of an object's counts around its own mean, in units of a Poisson variance: 0 where every
            epoch is the same, 1 for independent draws, more for bursts and drift.
        spread: coefficient of variation of the objects' rates per byte, beyond what counting noise makes of equal ones.
        concentration: share of requests to the tenth of the objects read most.
        overlap: of the tenth read most, in adjacent windows: intersection over union.
        overlap_far: the same for windows half the log apart.
        persistence: cosine of the rates in windows half the log apart, free of counting noise: 1 if they stay.
        unseen: share of requests in the second half of the log to objects that no earlier window had.
        seasonal_gain: share of the squared error around each object's level that its level in the same phase of other
            epochs removes.
        seasonal_errors: that gain in standard errors.
    """

    equal_share: float | None
    rounds: float | None
    dispersion: float | None
    spread: float
    concentration: float
    overlap: float | None
    overlap_far: float | None
    persistence: float | None
    unseen: float | None
    seasonal_gain: float | None
    seasonal_errors: float | None


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


def detect_regime(log: History | Trace, nbytes: NDArray[np.int64] | None = None) -> Regime:
    """Tell what kind of access a log shows.

    Args:
        log: at least one window with a request.
        nbytes: int64 (C,), size of every object, or rows: how many requests each would get if all samples were wanted
            equally. None for the sizes of a trace, and for a history if they are not known.

    Raises:
        LogError: there is no request, or there are not as many sizes as objects.
    """
    history = log.history() if isinstance(log, Trace) else log
    if nbytes is None and isinstance(log, Trace) and not (log.nbytes == 1).all():
        nbytes = log.nbytes
    counts, totals = history.counts, history.counts.sum(0)
    read = totals > 0
    if not read.any():
        raise LogError("the log holds no request: there is no regime to tell; log an epoch first")
    if nbytes is not None and len(nbytes) != len(totals):
        raise LogError(f"{len(nbytes)} sizes do not fit {len(totals)} objects; give one for each")
    if not read.all():
        counts, totals = counts[:, read], totals[read]
    sizes = np.ones(len(totals)) if nbytes is None else nbytes[read].astype(np.float64)
    epochs = _whole_epochs(history, counts)
    gain, errors = _season(history, counts)
    half = len(counts) // 2
    evidence = Evidence(
        equal_share=float((epochs == epochs[0]).all(0).mean()) if len(epochs) > 1 else None,
        rounds=_rounds(log.objects) if isinstance(log, Trace) else None,
        dispersion=_dispersion(epochs if len(epochs) > 1 else counts),
        spread=_spread(totals, sizes)[0],
        concentration=float(np.sort(totals)[-_top(totals) :].sum() / totals.sum()),
        overlap=_overlap(counts, 1),
        overlap_far=_overlap(counts, half),
        persistence=_persistence(counts, half),
        unseen=_unseen(counts),
        seasonal_gain=gain,
        seasonal_errors=errors,
    )
    kind = _kind(evidence, noise=_spread(totals, sizes)[1], sized=nbytes is not None, objects=len(totals))
    return Regime(kind, evidence, _WORDS[kind](evidence))


def _kind(evidence: Evidence, *, noise: float, sized: bool, objects: int) -> RegimeKind:
    e = evidence
    if (e.seasonal_gain or 0.0) >= _SEASON and (e.seasonal_errors or 0.0) >= _CLEAR:
        return "seasonal"
    alike = e.spread <= _EXACT_RATES if sized else e.concentration < _HEAVY_HEAD
    repeated = (e.equal_share or 0.0) >= _ALL or (sized and e.dispersion is not None and e.dispersion < 1 / 2)
    independent = e.dispersion is None or e.dispersion <= 1 + max(0.1, _CLEAR * np.sqrt(2 / objects))
    if (e.rounds or 0.0) >= _ALL or (repeated and alike):
        return "uniform"
    if independent and e.spread <= max(_EQUAL_RATES, noise):
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
        what = f"rates differ by {e.spread:.0%} beyond counting noise"
    return f"Uniform: {what}; there is nothing to predict, so keep what is in memory and use the known order."


def _popularity_words(e: Evidence) -> str:
    return (
        f"Popularity: a tenth of the objects got {e.concentration:.0%} of the requests, and {_percent(e.unseen)} of them "
        "went to objects not seen before; what was wanted will be wanted again."
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


# -- measures ------------------------------------------------------------------------------------------


def _top(totals: NDArray[np.float64]) -> int:
    return max(1, int(_TOP * len(totals)))


def _whole_epochs(history: History, counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Counts per epoch, (E, C), of the epochs that were logged from end to end, as far as their totals tell."""
    starts = np.flatnonzero(np.diff(history.epochs, prepend=history.epochs[0] - 1))
    windows = np.diff(np.append(starts, len(counts)))
    epochs = np.add.reduceat(counts, starts, axis=0) if history.phases_per_epoch > 1 else counts
    whole = epochs[windows == history.phases_per_epoch]
    totals = whole.sum(1)
    return whole[totals >= _FULL_EPOCH * np.median(totals)] if len(whole) else whole


def _rounds(objects: NDArray[np.int32]) -> float | None:
    """Share of requests that are an object's i-th one while all others have had theirs i times, or i - 1 times."""
    order = np.argsort(objects, kind="stable")
    first = np.flatnonzero(np.diff(objects[order], prepend=-1))
    if len(objects) < 3 * len(first) // 2:
        return None
    times = np.empty(len(objects), np.int64)
    times[order] = np.arange(len(objects)) - np.repeat(first, np.diff(np.append(first, len(objects))))
    return float((times == np.arange(len(objects)) // len(first)).mean())


def _dispersion(epochs: NDArray[np.float64]) -> float | None:
    if len(epochs) < 2:  # noqa: PLR2004 - a variance needs two
        return None
    mean = epochs.mean(0)
    squares = sum(float(((row - mean) ** 2).sum()) for row in epochs)
    return squares / ((len(epochs) - 1) * float(mean.sum()))


def _spread(totals: NDArray[np.float64], sizes: NDArray[np.float64]) -> tuple[float, float]:
    """Coefficient of variation of rates per size beyond Poisson noise, and the most that noise would make of none."""
    equal = sizes * (totals.sum() / sizes.sum())
    squared = float((equal**2).sum())
    excess = float(((totals - equal) ** 2 - equal).sum()) / squared
    return float(np.sqrt(max(excess, 0.0))), float(np.sqrt(_CLEAR * np.sqrt(2 * squared) / squared))


def _overlap(counts: NDArray[np.float64], lag: int) -> float | None:
    if not 0 < lag < len(counts):
        return None
    size = _top(counts[0])
    tops = [np.argpartition(-row, size - 1)[:size] for row in counts]
    tops = [top[row[top] > 0] for top, row in zip(tops, counts, strict=True)]
    pairs = [(len(np.intersect1d(a, b)), len(a) + len(b)) for a, b in zip(tops[:-lag], tops[lag:], strict=True)]
    shares = [both / (total - both) for both, total in pairs if total]
    return float(np.mean(shares)) if shares else None


def _persistence(counts: NDArray[np.float64], lag: int) -> float | None:
    """Cosine of two windows' rates: sums of n (n - 1) estimate those of squared rates, as counts are Poisson."""
    if not 0 < lag < len(counts):
        return None
    squares = np.array([float((row * (row - 1)).sum()) for row in counts])
    products = sum(float(a @ b) for a, b in zip(counts[:-lag], counts[lag:], strict=True))
    norm = float(np.sqrt(max((squares[:-lag]).sum() * squares[lag:].sum(), 0.0)))
    return min(products / norm, 1.0) if norm else None


def _unseen(counts: NDArray[np.float64]) -> float | None:
    half = len(counts) // 2
    late = counts[half:]
    if not half or not late.any():
        return None
    first = (counts > 0).argmax(0)
    new = first >= half
    return float(counts[first[new], np.flatnonzero(new)].sum() / late.sum())


def _season(history: History, counts: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """How much of the squared error around the level the phase's level removes, and that in standard errors.

    Products of counts in adjacent epochs are compared: same phase against all phases. Noise of different windows does
    not add to their sum, whatever the rates are; its variance is that of products of Poisson counts.
    """
    phases, first = history.phases_per_epoch, int(np.argmax(history.phases == 0))
    epochs = (len(counts) - first) // phases
    if phases < 2 or epochs < 2:  # noqa: PLR2004 - something to compare with
        return None, None
    cube = counts[first : first + epochs * phases].reshape(epochs, phases, -1)
    products, variances = np.zeros((2, phases, phases))
    for one, two in pairwise(cube):
        products += one @ two.T
        variances += one @ two.T + (one**2) @ two.T + one @ (two**2).T
    diagonal, everything = float(np.trace(products)) / phases, float(products.mean())
    total = float((cube[:-1] ** 2).sum() + (cube[1:] ** 2).sum()) / (2 * phases)
    noise = float(np.sqrt(np.trace(variances) / phases**2 + variances.mean() / phases**2))
    gained = diagonal - everything
    if total <= everything:
        return 0.0, 0.0
    return max(gained / (total - everything), 0.0), gained / noise if noise else 0.0
