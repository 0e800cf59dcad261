"""Gradient boosting that corrects the moving average: one model for all chunks, trained on the last windows.

Both models start from the moving average, through the offset of their link function: trees alone saturate at the head,
and ranking by them collapses (research/forecast.md §2b). Ke et al., "LightGBM" (NIPS 2017).
"""

import os
from collections.abc import Callable
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from foreshard.access.history import History
from foreshard.errors import ConfigError
from foreshard.forecast.alike import alike_chunks
from foreshard.forecast.base import Forecast, count_forecast, require_windows, sigmoid
from foreshard.forecast.boosting import boost, lightgbm_trouble
from foreshard.forecast.child import in_child, packed
from foreshard.forecast.ewma import EwmaForecaster, Weights
from foreshard.forecast.features import LEVEL, features
from foreshard.forecast.training import LEAST_WINDOWS, training_rows

BLOCK: Final = 1 << 18
"""Chunks whose features are in memory at a time: some 25 MiB."""

_SECONDS: Final = 600.0
_MOST_THREADS: Final = 4
_LARGEST: Final = np.log(50.0)
"""No expectation is more than 50 times, or less than a fiftieth, of the moving average."""


class GbmForecaster:
    """Poisson regression for expected counts and a classifier for the probability of an access, by boosted trees.

    The windows of the next epoch are forecast directly, each from features of its phase; those after it repeat the
    epoch. Histories shorter than two epochs don't tell phases apart. The work is done in a child process, as torch and
    LightGBM do not get on in one.

    Args:
        level: returns the moving average fitted on a history, where others use it as well.
    """

    name = "gbm"
    min_windows = LEAST_WINDOWS

    def __init__(self, level: Callable[[History], EwmaForecaster] | None = None) -> None:
        self._level_of = level or EwmaForecaster().fit

    def unavailable(self) -> str | None:
        """Return why LightGBM cannot be used here, with the fix; None if it can."""
        return lightgbm_trouble()

    def fit(self, history: History) -> Self:
        """Train both models and forecast the next epoch.

        Raises:
            ConfigError: too short a history, or LightGBM cannot be used here.
        """
        require_windows(self.name, self.min_windows, history)
        trouble = self.unavailable()
        if trouble:
            raise ConfigError(f"forecaster {self.name!r} is not available: {trouble}")
        weights = self._level_of(history).smoothing
        given = {"season": np.array(weights.season), "alpha": weights.alpha, "dispersion": weights.dispersion}
        found = in_child("foreshard.forecast.gbm_worker", packed(history) | given, _SECONDS)
        self._expected, self._probability = found["expected"], found["probability"]
        self._dispersion = weights.dispersion
        return self

    def predict(self, horizon: int) -> Forecast:
        """Return the next epoch's windows, over and over; each is that of its phase."""
        rows = np.arange(horizon) % len(self._expected)
        counts = count_forecast(self._expected[rows], self._dispersion, self.name)
        return Forecast(counts.expected, self._probability[rows], counts.lower, counts.upper, self.name)


def next_epoch(history: History, weights: Weights) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Train, and return expected counts and probabilities of the next epoch's windows, shape (P, C) each.

    P is 1 where phases are not told apart. Chunks that were never read get 0.
    """
    rows = training_rows(history, weights)
    count_model = boost("poisson", rows.columns, np.log(rows.level), rows.count)
    odds = rows.columns[:, LEVEL].astype(np.float64)
    access_model = boost("binary", rows.columns, odds, (rows.count > 0).astype(np.float64))
    expected, probability = np.zeros((2, rows.view.phases, history.chunks))
    alike = alike_chunks(history)
    for step in range(1, rows.view.phases + 1):
        counts, chances = np.empty((2, len(alike.one_of)))
        for first in range(0, len(alike.one_of), BLOCK):
            block = slice(first, first + BLOCK)
            columns, level = features(history, history.windows, step, alike.one_of[block], rows.view)
            moved = np.clip(_raw(count_model, columns), -_LARGEST, _LARGEST)
            counts[block] = level * np.exp(moved)
            chances[block] = sigmoid(columns[:, LEVEL] + _raw(access_model, columns))
        expected[step - 1, alike.read] = counts[alike.kind]
        probability[step - 1, alike.read] = chances[alike.kind]
    return expected, probability


def _raw(model: Any, columns: NDArray[np.float32]) -> NDArray[np.float64]:  # noqa: ANN401 -- lightgbm has no types
    """Return the sum of the trees' leaves, shape (n,); 0 without trees.

    Unlike training, this may use several cores: every row is summed up by itself.
    """
    if model is None:
        return np.zeros(len(columns))
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    return np.asarray(model.predict(columns, raw_score=True, num_threads=threads), np.float64)
