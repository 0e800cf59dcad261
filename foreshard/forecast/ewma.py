"""Exponentially weighted moving average of every chunk: hard to beat, and the only model that needs no history at all.

Measured on nine access logs (research/forecast.md §2b), it ranks within 0.007 NDCG of the best learned model.
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from foreshard.access.history import History
from foreshard.forecast.base import Forecast, count_forecast, require_windows

ALPHAS: Final = (0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
"""Weights of the newest window that are tried."""

_DEFAULT_ALPHA: Final = 0.35


@dataclass(frozen=True)
class Smoothing:
    """Levels after the last window, and how well the model did one window ahead.

    Attributes:
        levels: shape (season, C); row 0 alone if the season is 1, otherwise a row for each phase.
        alpha: weight of the newest window.
        season: 1, or windows of an epoch.
        error: sum of squared one-window-ahead errors.
        dispersion: of the counts around what was expected, see `count_forecast`.
        lag: how many windows old what the levels average is, in the mean.
    """

    levels: NDArray[np.float64]
    alpha: float
    season: int
    error: float
    dispersion: float
    lag: float


class EwmaForecaster:
    """Smooths every chunk's counts, over all windows or for each phase of the epoch apart.

    The weight and whether phases are told apart are those with the least squared error one window ahead, over all
    chunks. Telling phases apart needs two epochs; it is what sees that a chunk is always read at the same time.
    """

    name = "ewma"
    min_windows = 1

    def fit(self, history: History) -> Self:
        """Choose the weight and the season, and keep the levels."""
        require_windows(self.name, self.min_windows, history)
        self._history = history
        phases = history.phases_per_epoch
        seasons = [1, phases] if phases > 1 and history.windows >= 2 * phases else [1]
        start = seasons[-1]
        alphas = ALPHAS if history.windows > start else (_DEFAULT_ALPHA,)
        # min() keeps the first of equals: one season before several, the smoother before the livelier.
        self.smoothing = min(
            (smooth(history, alpha, season, start) for season in seasons for alpha in alphas),
            key=lambda candidate: candidate.error,
        )
        return self

    def predict(self, horizon: int) -> Forecast:
        """Return the levels, each window that of its phase."""
        first = self._history.next_phase
        rows = (first + np.arange(horizon)) % self.smoothing.season
        return count_forecast(self.smoothing.levels[rows], self.smoothing.dispersion, self.name)


def smooth(history: History, alpha: float, season: int, start: int) -> Smoothing:
    """Run the moving average through a history.

    Weights are normalised, so that the first windows do not count for more than their age says.

    Args:
        history: T windows of C chunks.
        alpha: weight of the newest window, in (0, 1].
        season: 1, or windows of an epoch.
        start: the first window that is scored; at least `season`.
    """
    sums = np.zeros((season, history.chunks))
    weights = np.zeros(season)
    error = excess = squares = 0.0
    for window, counts in enumerate(history.counts):
        row = int(history.phases[window]) % season
        if window >= start and weights[row]:
            expected = sums[row] / weights[row]
            residual = counts - expected
            lost = float(residual @ residual)
            error += lost
            excess += lost - float(expected.sum())
            squares += float(expected @ expected)
        sums[row] *= 1 - alpha
        sums[row] += counts
        weights[row] = weights[row] * (1 - alpha) + 1
    levels = sums / np.maximum(weights, 1.0)[:, None]
    # Method of moments: what the squared errors exceed the Poisson variance by, as a share of the squared mean.
    dispersion = max(0.0, excess / squares) if squares else 0.0
    ages = np.arange(-(-history.windows // season))
    lag = season * float(np.average(ages, weights=(1 - alpha) ** ages))
    return Smoothing(levels, alpha, season, error, dispersion, lag)
