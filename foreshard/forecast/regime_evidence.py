"""The figures that tell a regime.

Measures that would take counting noise for change are built from products of different windows: independent Poisson
counts are as uncorrelated as what they are counts of.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.access.history import History
from foreshard.access.trace import Trace
from foreshard.errors import LogError

_FULL_EPOCH: Final = 0.9
"""Share of the median epoch's requests that an epoch needs to count as a whole one."""

CLEAR: Final = 4.0
"""Standard errors beyond which a figure is not noise."""

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
        object_spread: the same per object, whatever its size.
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
    object_spread: float
    concentration: float
    overlap: float | None
    overlap_far: float | None
    persistence: float | None
    unseen: float | None
    seasonal_gain: float | None
    seasonal_errors: float | None


def gather_evidence(trace: Trace | None, history: History, nbytes: NDArray[np.int64] | None) -> tuple[Evidence, float]:
    """Return the figures of a log, and the most that counting noise would make of the spread of equal rates.

    Args:
        trace: the log, if its order is known.
        history: the same as counts.
        nbytes: int64 (C,), size of every object; None if they are equal, or not known.

    Raises:
        LogError: there is no request, or there are not as many sizes as objects.
    """
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
    spread, noise = _spread(totals, sizes)
    evidence = Evidence(
        equal_share=float((epochs == epochs[0]).all(0).mean()) if len(epochs) > 1 else None,
        rounds=_rounds(trace.objects) if trace is not None else None,
        dispersion=_dispersion(epochs if len(epochs) > 1 else counts),
        spread=spread,
        object_spread=spread if nbytes is None else _spread(totals, np.ones(len(totals)))[0],
        concentration=float(np.sort(totals)[-_top(totals) :].sum() / totals.sum()),
        overlap=_overlap(counts, 1),
        overlap_far=_overlap(counts, half),
        persistence=_persistence(counts, half),
        unseen=_unseen(counts),
        seasonal_gain=gain,
        seasonal_errors=errors,
    )
    return evidence, noise


def _top(totals: NDArray[np.float64]) -> int:
    return max(1, int(_TOP * len(totals)))


def _whole_epochs(history: History, counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Counts per epoch, (E, C), of the epochs that were logged from end to end, as far as their totals tell."""
    starts = np.flatnonzero(np.diff(history.epochs, prepend=history.epochs[0] - 1))
    windows = np.diff(np.append(starts, len(counts)))
    epochs = np.add.reduceat(counts, starts, axis=0) if history.phases_per_epoch > 1 else counts
    complete = windows == history.phases_per_epoch
    if not complete.any():
        return epochs[:0]
    totals = epochs.sum(1)
    kept = complete & (totals >= _FULL_EPOCH * np.median(totals[complete]))
    # Not a copy of all counts where all are kept.
    return epochs if kept.all() else epochs[kept]


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
    return float(np.sqrt(max(excess, 0.0))), float(np.sqrt(CLEAR * np.sqrt(2 * squared) / squared))


def _overlap(counts: NDArray[np.float64], lag: int) -> float | None:
    if not 0 < lag < len(counts):
        return None
    size = _top(counts[0])
    tops = [_hottest(row, size) for row in counts]
    pairs = [(len(np.intersect1d(a, b)), len(a) + len(b)) for a, b in zip(tops[:-lag], tops[lag:], strict=True)]
    shares = [both / (total - both) for both, total in pairs if total]
    return float(np.mean(shares)) if shares else None


def _hottest(row: NDArray[np.float64], size: int) -> NDArray[np.int64]:
    """The `size` objects read most, less those not read at all; a copy, so that the order of all others is given up."""
    top = np.argpartition(-row, size - 1)[:size]
    return top[row[top] > 0]


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
    """How much of the squared error around an object's level its level in the phase removes, and in standard errors.

    Deviations from the epoch's mean are multiplied with those of the same phase in the next epoch: noise of different
    windows does not add to the sum. What a steady trend adds, which rises through every epoch alike, is taken off.
    Objects count in units of their Poisson variance, so that the hottest one does not decide alone.
    """
    phases, first = history.phases_per_epoch, int(np.argmax(history.phases == 0))
    epochs = (len(counts) - first) // phases
    if phases < 2 or epochs < 2:  # noqa: PLR2004 - something to compare with
        return None, None
    cube = counts[first : first + epochs * phases].reshape(epochs, phases, -1)
    weight = 1 / (counts.mean(0) + 1)
    gained = lost = variance = 0.0
    for one, two in pairwise(cube):
        levels = one.mean(0), two.mean(0)
        off = one - levels[0], two - levels[1]
        slope = ((levels[1] - levels[0]) ** 2 - (levels[0] + levels[1]) / phases) / phases**2  # squared, less its noise
        trend = max(float(slope @ weight), 0.0) * (phases**2 - 1) / 12
        gained += float((off[0] * off[1]).mean(0) @ weight) - trend
        lost += float(((one**2 + two**2).mean(0) / 2 - levels[0] * levels[1]) @ weight)
        squares = (off[0] ** 2).sum(0) * (off[1] ** 2).sum(0)
        variance += float(squares @ weight**2) / (phases - 1) / phases**2
    if lost <= 0 or not variance:
        return 0.0, 0.0
    return min(max(gained / lost, 0.0), 1.0), gained / float(np.sqrt(variance))
