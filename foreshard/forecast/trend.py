"""Moving average with a damped trend: for chunks that grow hot or cool down steadily, as losses fall while training.

The trend of a chunk is the logarithm of the ratio of its last epoch to the one before. Most of that is noise, so it is
shrunk towards 0 by empirical Bayes (James-Stein): where all trends together are no larger than counting noise, the
forecast is the moving average itself. Damping is that of Gardner and McKenzie (Management Science 31, 1985).
"""

from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from foreshard.access.history import History
from foreshard.forecast.base import Forecast, count_forecast, require_windows
from foreshard.forecast.ewma import EwmaForecaster

_DAMPING: Final = 0.8
_LARGEST: Final = np.log(3.0)
"""No chunk is forecast at more than three times, or less than a third, of its level."""


class TrendForecaster:
    """The moving average, moved on by each chunk's shrunk and damped trend."""

    name = "trend"
    min_windows = 1

    def fit(self, history: History) -> Self:
        """Fit the moving average and the trends; without two epochs there is no trend."""
        require_windows(self.name, self.min_windows, history)
        self._level = EwmaForecaster().fit(history)
        self._trend = shrunk_trend(history, self._level.smoothing.dispersion)
        return self

    def predict(self, horizon: int) -> Forecast:
        """Return the moving average times what the trend makes of the time since."""
        level, smoothing = self._level.predict(horizon).expected, self._level.smoothing
        # The newest count behind a phase's own level is an epoch older than the window it stands for.
        ahead = np.arange(1, horizon + 1) if smoothing.season == 1 else np.full(horizon, smoothing.season)
        moved = _DAMPING * (smoothing.lag + ahead[:, None]) * self._trend
        expected = level * np.exp(np.clip(moved, -_LARGEST, _LARGEST))
        return count_forecast(expected, smoothing.dispersion, self.name)


def shrunk_trend(history: History, dispersion: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each chunk's relative growth per window, shape (C,), shrunk by how much of it is noise.

    Args:
        history: T windows; with fewer than two epochs all trends are 0.
        dispersion: of a window's counts, see `count_forecast`; one for all, or shape (C,).
    """
    length = history.phases_per_epoch
    if history.windows < 2 * length:
        return np.zeros(history.chunks)
    # Whole epochs are compared, so that a chunk read in one phase only shows no trend for that.
    last = history.counts[-length:].sum(0) + 0.5
    before = history.counts[-2 * length : -length].sum(0) + 0.5
    growth = np.log(last / before) / length
    noise = (1 / last + 1 / before + 2 * dispersion / length) / length**2
    signal = max(0.0, float(np.average(growth**2 - noise, weights=1 / noise))) if len(growth) else 0.0
    return growth * (signal / (signal + noise))
