"""Exponentially weighted moving average of every chunk: hard to beat, and the only model that needs no history at all.

Measured on nine access logs (research/forecast.md §2b), it ranks within 0.007 NDCG of the best learned model.
"""

from dataclasses import dataclass
from typing import Final, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from foreshard.access.history import History
from foreshard.forecast.base import Forecast, count_forecast, require_windows

Error = TypeVar("Error", float, NDArray[np.float64])

ALPHAS: Final = (0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
"""Weights of the newest window that are tried, the smoothest first."""

_DEFAULT_ALPHA: Final = 0.35

_ROUNDING: Final = 1e-9

BLOCK: Final = 1 << 14
"""Chunks that are run through all windows at a time: what is added up of them stays in the processor's cache."""

_TIERS: Final = np.array([0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0])
"""Mean draws per window between which chunks share a weight: what follows a hot chunk is noise to a cold one."""


@dataclass(frozen=True)
class Pass:
    """One run of the moving average with one weight.

    Attributes:
        levels: shape (season, C), see `Smoothing`.
        error: shape (C,), sum of squared one-window-ahead errors.
        expected: shape (C,), sum of what was expected in the windows scored.
        squares: shape (C,), sum of its squares.
        lag: how many windows old what the levels average is, in the mean.
    """

    levels: NDArray[np.float64]
    error: NDArray[np.float64]
    expected: NDArray[np.float64]
    squares: NDArray[np.float64]
    lag: float


@dataclass(frozen=True)
class Weights:
    """How every chunk is smoothed: with the weight that did best one window ahead in its tier.

    Attributes:
        season: 1, or windows of an epoch.
        alpha: shape (C,), weight of the newest window.
        dispersion: shape (C,), of counts around what was expected, see `count_forecast`.
    """

    season: int
    alpha: NDArray[np.float64]
    dispersion: NDArray[np.float64]


@dataclass(frozen=True)
class Smoothing(Weights):
    """Every chunk's levels after the last window.

    Attributes:
        levels: shape (season, C); row 0 alone if the season is 1, otherwise a row for each phase.
        lag: shape (C,), age in windows of what the levels average, in the mean.
        error: squared errors in units of a Poisson variance, over all chunks.
    """

    levels: NDArray[np.float64]
    lag: NDArray[np.float64]
    error: float


class EwmaForecaster:
    """Smooths every chunk's counts, over all windows or for each phase of the epoch apart.

    The weight is that with the least squared error one window ahead, among chunks of a similar number of draws.
    Whether phases are told apart is decided likewise, for all chunks at once; it needs two epochs, and it is what sees
    that a chunk is always read at the same time.
    """

    name = "ewma"
    min_windows = 1

    def fit(self, history: History) -> Self:
        """Choose the weights and the season, and keep the levels."""
        require_windows(self.name, self.min_windows, history)
        self._history = history
        phases = history.phases_per_epoch
        seasons = [1, phases] if phases > 1 and history.windows >= 2 * phases else [1]
        tried = [_fit_season(history, season, seasons[-1]) for season in seasons]
        plain, seasonal = tried[0], tried[-1]
        self.smoothing = seasonal if seasonal.error < _beat(plain.error) else plain
        return self

    def predict(self, horizon: int) -> Forecast:
        """Return the levels, each window that of its phase."""
        first = self._history.next_phase
        rows = (first + np.arange(horizon)) % self.smoothing.season
        return count_forecast(self.smoothing.levels[rows], self.smoothing.dispersion, self.name)


def _fit_season(history: History, season: int, start: int) -> Smoothing:
    """Try every weight and keep, for each tier of chunks, what did best; the smoothest of equals."""
    mean = history.counts.mean(0)
    tier = np.digitize(mean, _TIERS)
    tiers = len(_TIERS) + 1
    best = np.full(tiers, np.inf)
    dispersion = np.zeros(tiers)
    levels = np.empty((season, history.chunks))
    alpha, lag, error = np.empty(history.chunks), np.empty(history.chunks), np.empty(history.chunks)
    for tried in ALPHAS if history.windows > start else (_DEFAULT_ALPHA,):
        found = smooth(history, tried, season, start)
        lost, expected, squares = (
            np.bincount(tier, weights=values, minlength=tiers)
            for values in (found.error, found.expected, found.squares)
        )
        better = lost < _beat(best)
        best[better] = lost[better]
        # Method of moments: what squared errors exceed the Poisson variance by, as a share of the squared mean.
        excess = np.divide(lost - expected, squares, out=np.zeros(tiers), where=squares > 0)
        dispersion[better] = np.maximum(excess, 0.0)[better]
        mine = better[tier]
        np.copyto(levels, found.levels, where=mine)
        np.copyto(error, found.error, where=mine)
        alpha[mine], lag[mine] = tried, found.lag
    return Smoothing(season, alpha, dispersion[tier], levels, lag, float((error / (mean + 1.0)).sum()))


def _beat(error: Error) -> Error:
    """What an error must be below to count as smaller: rounding, which differs between machines, decides nothing."""
    return error * (1 - _ROUNDING) - _ROUNDING


def smooth(history: History, alpha: float, season: int, start: int) -> Pass:
    """Run the moving average through a history.

    Weights are normalised, so that the first windows do not count for more than their age says.

    Args:
        history: T windows of C chunks.
        alpha: weight of the newest window, in (0, 1].
        season: 1, or windows of an epoch.
        start: the first window that is scored; at least `season`.
    """
    sums, (error, total, squares) = np.zeros((season, history.chunks)), np.zeros((3, history.chunks))
    weights = np.zeros(season)
    for first in range(0, history.chunks, BLOCK):
        block = slice(first, first + BLOCK)
        scores = error[block], total[block], squares[block]
        weights = _smooth_block(history, block, alpha, start, sums[:, block], scores)
    ages = np.arange(-(-history.windows // season))
    lag = season * float(np.average(ages, weights=(1 - alpha) ** ages))
    sums /= np.maximum(weights, 1.0)[:, None]
    return Pass(sums, error, total, squares, lag)


def _smooth_block(
    history: History,
    block: slice,
    alpha: float,
    start: int,
    sums: NDArray[np.float64],
    scores: tuple[NDArray[np.float64], ...],
) -> NDArray[np.float64]:
    """Smooth some chunks, in place: weighted sums, (season, B), and error, expected and squares, (B,) each.

    Returns:
        Shape (season,), sums of the weights, which are those of any block.
    """
    season = len(sums)
    weights = np.zeros(season)
    error, total, squares = scores
    expected, difference = np.empty((2, sums.shape[1]))
    for window, counts in enumerate(history.counts[:, block]):
        row = int(history.phases[window]) % season
        if window >= start and weights[row]:
            np.divide(sums[row], weights[row], out=expected)
            np.subtract(counts, expected, out=difference)
            error += np.square(difference, out=difference)
            total += expected
            squares += np.square(expected, out=expected)
        sums[row] *= 1 - alpha
        sums[row] += counts
        weights[row] = weights[row] * (1 - alpha) + 1
    return weights
