"""Logistic regression on the learned forecasters' features: probabilities as good as trees', much cheaper.

It corrects the moving average's log odds, with every correction shrunk towards none. It does not tell how many accesses
there will be: ranking by a probability fails at the head (research/forecast.md §2b), so its expected counts are the
moving average's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from foreshard.access.history import History
from foreshard.forecast.alike import alike_chunks
from foreshard.forecast.base import Forecast, require_windows, sigmoid
from foreshard.forecast.ewma import EwmaForecaster
from foreshard.forecast.features import LEVEL, View, features
from foreshard.forecast.training import LEAST_WINDOWS, training_rows

_ROWS: Final = 50_000
_RIDGE: Final = 10.0
_ROUNDS: Final = 25
_SETTLED: Final = 1e-7
_FAR: Final = 5.0
"""Standard deviations beyond which a feature counts as no further out."""

_BLOCK: Final = 1 << 18


@dataclass(frozen=True)
class Curve:
    """A fitted regression on F features.

    Attributes:
        centre: shape (F,), mean of each feature.
        scale: shape (F,), its standard deviation, or 1.
        weights: shape (F + 1,), per standard deviation; the last is the intercept.
    """

    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    weights: NDArray[np.float64]

    def odds(self, columns: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return log odds, shape (n,), for features of shape (n, F)."""
        return columns[:, LEVEL] + _times(_scaled(columns, self.centre, self.scale), self.weights)


class LogisticForecaster:
    """Probabilities by logistic regression, expected counts by the moving average.

    Args:
        level: returns the moving average fitted on a history, where others use it as well.
    """

    name = "logistic"
    min_windows = LEAST_WINDOWS

    def __init__(self, level: Callable[[History], EwmaForecaster] | None = None) -> None:
        self._level_of = level or EwmaForecaster().fit

    def fit(self, history: History) -> Self:
        """Fit the regression and judge the next epoch's windows."""
        require_windows(self.name, self.min_windows, history)
        self._level = self._level_of(history)
        rows = training_rows(history, self._level.smoothing, _ROWS)
        curve = fit_curve(rows.columns, rows.count > 0)
        self._probability = _next_epoch(history, rows.view, curve)
        return self

    def predict(self, horizon: int) -> Forecast:
        """Return the next epoch's windows, over and over; each is that of its phase."""
        counts = self._level.predict(horizon)
        probability = self._probability[np.arange(horizon) % len(self._probability)]
        return Forecast(counts.expected, probability, counts.lower, counts.upper, self.name)


def fit_curve(columns: NDArray[np.float32], accessed: NDArray[np.bool_]) -> Curve:
    """Fit by iteratively reweighted least squares, which is Newton's method, with a ridge.

    Args:
        columns: shape (n, F); without a row, nothing is corrected.
        accessed: shape (n,).
    """
    width = columns.shape[1]
    if not len(columns):
        return Curve(np.zeros(width), np.ones(width), np.zeros(width + 1))
    centre = columns.mean(0, dtype=np.float64)
    spread = columns.std(0, dtype=np.float64)
    scale = np.where(spread > 0, spread, 1.0)
    scaled, start = _scaled(columns, centre, scale), columns[:, LEVEL].astype(np.float64)
    weights = np.zeros(width + 1)
    loss = _loss(weights, scaled, start, accessed)
    for _ in range(_ROUNDS):
        p = sigmoid(start + _times(scaled, weights))
        slope = np.einsum("nf,n->f", scaled, p - accessed) + _RIDGE * weights
        curvature = np.einsum("nf,ng->fg", scaled * (p * (1 - p))[:, None], scaled) + _RIDGE * np.eye(len(weights))
        move = np.linalg.solve(curvature, slope)
        # Newton overshoots where probabilities are near 0 or 1: halve the step until it helps.
        while (better := _loss(weights - move, scaled, start, accessed)) > loss and np.abs(move).max() > _SETTLED:
            move /= 2
        if loss - better < _SETTLED * max(1.0, loss):
            break
        weights, loss = weights - move, better
    return Curve(centre, scale, weights)


def _next_epoch(history: History, view: View, curve: Curve) -> NDArray[np.float64]:
    """Return probabilities, shape (P, C); 0 for chunks that were never read."""
    probability = np.zeros((view.phases, history.chunks))
    alike = alike_chunks(history)
    for step in range(1, view.phases + 1):
        found = np.empty(len(alike.one_of))
        for first in range(0, len(found), _BLOCK):
            block = slice(first, first + _BLOCK)
            columns, _ = features(history, history.windows, step, alike.one_of[block], view)
            found[block] = sigmoid(curve.odds(columns))
        probability[step - 1, alike.read] = found[alike.kind]
    return probability


def _scaled(
    columns: NDArray[np.float32], centre: NDArray[np.float64], scale: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return standardised features and a column of ones, shape (n, F + 1)."""
    standard = np.clip((columns - centre) / scale, -_FAR, _FAR)
    return np.concatenate([standard, np.ones((len(columns), 1))], axis=1)


def _times(scaled: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the product, shape (n,); `einsum` adds up in an order that no number of threads changes, `@` does not."""
    return np.einsum("nf,f->n", scaled, weights)


def _loss(
    weights: NDArray[np.float64],
    scaled: NDArray[np.float64],
    start: NDArray[np.float64],
    accessed: NDArray[np.bool_],
) -> float:
    odds = start + _times(scaled, weights)
    return float((np.logaddexp(0.0, odds) - accessed * odds).sum() + 0.5 * _RIDGE * (weights**2).sum())
