"""A small recurrent network for all chunks, as an option: measured about as good as `gbm`, for more time.

Hochreiter and Schmidhuber, "Long short-term memory" (Neural Computation 9, 1997). It runs in a process of its own,
as seed and threads are set for all of torch there, and as torch must not share one with LightGBM (see `boosting`).
"""

import importlib.util
from typing import Final, Self

import numpy as np

from foreshard.access.history import History
from foreshard.errors import ConfigError
from foreshard.forecast.base import Forecast, count_forecast, require_windows, sigmoid
from foreshard.forecast.child import in_child, packed
from foreshard.forecast.ewma import EwmaForecaster
from foreshard.forecast.training import LEAST_WINDOWS

SECONDS: Final = 300.0
"""Deadline of the child process."""

_WORKER: Final = "foreshard.forecast.lstm_worker"


class LstmForecaster:
    """One layer of 32 cells over the last 16 windows corrects the moving average's next window.

    Later windows are the moving average's, corrected by the same factor in counts and the same shift in log odds.

    Args:
        seconds: until the child process is given up.
    """

    name = "lstm"
    min_windows = LEAST_WINDOWS

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds

    def unavailable(self) -> str | None:
        """Return that torch is missing, with the fix; None if it is there."""
        # Looked for, not imported: that takes seconds, and only the child needs it.
        found = importlib.util.find_spec("torch")
        return None if found else "torch is not installed: pip install 'foreshard[torch]'"

    def fit(self, history: History) -> Self:
        """Train the network in a child process.

        Raises:
            ConfigError: too short a history, torch is missing, or the child failed.
            DeadlineError: the child was not ready in time.
        """
        require_windows(self.name, self.min_windows, history)
        trouble = self.unavailable()
        if trouble:
            raise ConfigError(f"forecaster {self.name!r} is not available: {trouble}")
        self._level = EwmaForecaster().fit(history)
        found = in_child(_WORKER, packed(history), self._seconds)
        self._growth, self._shift = found["growth"], found["shift"]
        return self

    def predict(self, horizon: int) -> Forecast:
        """Return the moving average's windows with the network's correction."""
        level = self._level.predict(horizon)
        counts = count_forecast(level.expected * np.exp(self._growth), self._level.smoothing.dispersion, self.name)
        drawn = np.clip(level.probability, 1e-9, 1 - 1e-9)
        odds = np.log(drawn) - np.log1p(-drawn) + self._shift
        probability = np.where(level.expected > 0, sigmoid(odds), 0.0)
        return Forecast(counts.expected, probability, counts.lower, counts.upper, self.name)
