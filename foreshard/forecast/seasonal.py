"""The baseline of a season: every window will be like the same phase of the last epoch."""

from typing import Self

import numpy as np

from foreshard.access.history import History
from foreshard.forecast.base import Forecast, count_forecast, require_windows


class SeasonalForecaster:
    """Repeats the last epoch. Without phases it is `last`; phases that were never seen are like the last window."""

    name = "seasonal"
    min_windows = 1

    def fit(self, history: History) -> Self:
        """Remember the last epoch."""
        require_windows(self.name, self.min_windows, history)
        phases = history.phases_per_epoch
        newest = history.counts[-phases:]
        self._next_phase = history.next_phase
        self._epoch = np.tile(history.counts[-1], (phases, 1))
        self._epoch[history.phases[-phases:]] = newest
        return self

    def predict(self, horizon: int) -> Forecast:
        """Return it as often as is needed, with the probability of a Poisson count of that mean."""
        phases = (self._next_phase + np.arange(horizon)) % len(self._epoch)
        return count_forecast(self._epoch[phases], 0.0, self.name)
