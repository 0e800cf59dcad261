"""The baseline that others have to beat: every window will be like the last one."""

from typing import Self

import numpy as np

from foreshard.access.history import History
from foreshard.forecast.base import Forecast, count_forecast, require_windows


class LastForecaster:
    """Repeats the last window's counts."""

    name = "last"
    min_windows = 1

    def fit(self, history: History) -> Self:
        """Remember the last window."""
        require_windows(self.name, self.min_windows, history)
        self._last = history.counts[-1]
        return self

    def predict(self, horizon: int) -> Forecast:
        """Return it `horizon` times, with the probability of a Poisson count of that mean."""
        return count_forecast(np.tile(self._last, (horizon, 1)), 0.0, self.name)
