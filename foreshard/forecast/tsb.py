"""Intermittent demand: how often a chunk is read and how much when it is, averaged apart.

Teunter, Syntetos and Babai, "Intermittent demand: Linking forecasting to inventory obsolescence" (EJOR 214, 2011). The
probability of an access is updated in every window, the size only in those with one, so that a chunk that is no longer
read fades. Averages are normalised as in `ewma`, which spares the choice of a start.
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from foreshard.access.history import History
from foreshard.forecast.base import Forecast, count_forecast, require_windows
from foreshard.forecast.ewma import BLOCK

WEIGHTS: Final = (0.05, 0.1, 0.2, 0.4)
"""Weights of the newest window that are tried, the smoothest first; one for both averages."""

_DEFAULT: Final = 0.2
_TIERS: Final = np.array([0.1, 0.3, 0.6])
"""Shares of windows with an access between which chunks share a weight."""

_PRIOR_WINDOWS: Final = 0.5
"""How much the mean probability of all chunks weighs against a chunk's own: a few windows prove nothing for certain."""

_ROUNDING: Final = 1e-9


@dataclass(frozen=True)
class Intermittent:
    """Averages after the last window, shape (C,) each, and the sum of squared errors one window ahead.

    Attributes:
        often: probability of an access in a window.
        size: draws in a window that has any.
        error: shape (C,).
        weight: of all windows in `often`, in units of the newest one's.
    """

    often: NDArray[np.float64]
    size: NDArray[np.float64]
    error: NDArray[np.float64]
    weight: float


class TsbForecaster:
    """Probability times size, with the weight that did best one window ahead among chunks read about as often."""

    name = "tsb"
    min_windows = 1

    def fit(self, history: History) -> Self:
        """Choose the weights and keep the averages."""
        require_windows(self.name, self.min_windows, history)
        tier = np.digitize((history.counts > 0).mean(0), _TIERS)
        best = np.full(len(_TIERS) + 1, np.inf)
        self._often, self._size, weight = np.zeros((3, history.chunks))
        for tried in WEIGHTS if history.windows > 1 else (_DEFAULT,):
            found = intermittent(history.counts, tried)
            lost = np.bincount(tier, weights=found.error, minlength=len(best))
            better = lost < best * (1 - _ROUNDING) - _ROUNDING
            best[better] = lost[better]
            mine = better[tier]
            np.copyto(self._often, found.often, where=mine)
            np.copyto(self._size, found.size, where=mine)
            weight[mine] = found.weight
        read = self._often > 0
        mean = float(self._often[read].mean()) if read.any() else 0.0
        drawn = (self._often * weight + _PRIOR_WINDOWS * mean) / (weight + _PRIOR_WINDOWS)
        self._probability = np.where(read, drawn, 0.0)
        return self

    def predict(self, horizon: int) -> Forecast:
        """Return the same for every window."""
        expected = np.tile(self._often * self._size, (horizon, 1))
        counts = count_forecast(expected, 0.0, self.name)
        probability = np.tile(self._probability, (horizon, 1))
        return Forecast(counts.expected, probability, counts.lower, counts.upper, self.name)


def intermittent(counts: NDArray[np.float64], alpha: float) -> Intermittent:
    """Run both averages through the counts of T windows, shape (T, C).

    Args:
        counts: draws.
        alpha: weight of the newest window, in (0, 1).
    """
    often, size, error = np.zeros((3, counts.shape[1]))
    weight = 0.0
    for first in range(0, counts.shape[1], BLOCK):
        block = slice(first, first + BLOCK)
        weight = _run_block(counts[:, block], alpha, often[block], size[block], error[block])
    return Intermittent(often, size, error, weight)


def _run_block(
    counts: NDArray[np.float64],
    alpha: float,
    often: NDArray[np.float64],
    size: NDArray[np.float64],
    error: NDArray[np.float64],
) -> float:
    """Run both averages, in place, through the counts of some chunks; return the sum of the weights of `often`."""
    weight_of_size = np.zeros(counts.shape[1])
    weight = 0.0
    for window, row in enumerate(counts):
        if window:
            error += (row - often / weight * size / np.maximum(weight_of_size, 1.0)) ** 2
        read = row > 0
        often *= 1 - alpha
        often += read
        weight = weight * (1 - alpha) + 1.0
        kept = np.where(read, 1 - alpha, 1.0)
        size *= kept
        size += row
        weight_of_size *= kept
        weight_of_size += read
    often /= weight
    size /= np.maximum(weight_of_size, 1.0)
    return weight
