"""Prophet on groups of chunks: trend and season from the group, each chunk's share of it from the moving average.

One fit costs 30 to 60 ms (research/forecast.md §2b), too much for each of 100,000 chunks; on at most 64 groups it is
affordable, and it helps where accesses are seasonal. Taylor and Letham, "Forecasting at scale" (2018).
"""

import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from foreshard.access.history import History
from foreshard.forecast.base import Forecast, count_forecast, require_windows
from foreshard.forecast.ewma import EwmaForecaster
from foreshard.forecast.groups import group_chunks, group_count

_CHANGEPOINTS: Final = 5
_FOURIER_ORDER: Final = 3
_STAN_SEED: Final = 1
_LOGGERS: Final = ("prophet", "prophet.plot", "prophet.models", "prophet.forecaster", "cmdstanpy")


class GroupedProphetForecaster:
    """One Prophet per group of similar chunks; the epoch is its season, a window its day, and it never goes below 0."""

    name = "prophet"
    min_windows = 8

    def fit(self, history: History) -> Self:
        """Group the chunks and fit each group's total."""
        require_windows(self.name, self.min_windows, history)
        self._windows = history.windows
        level = EwmaForecaster().fit(history)
        self._dispersion = level.smoothing.dispersion
        groups = group_count(history.chunks, history.windows)
        self._group = group_chunks(history, groups)
        weight = level.smoothing.levels.mean(0)
        together = np.bincount(self._group, weights=weight, minlength=groups)[self._group]
        self._share = np.divide(weight, together, out=np.zeros_like(weight), where=together > 0)
        totals = np.stack([np.bincount(self._group, weights=row, minlength=groups) for row in history.counts], axis=1)
        with quiet():
            self._models = [fit_total(total, history.phases_per_epoch) for total in totals]
        return self

    def predict(self, horizon: int) -> Forecast:
        """Return each group's forecast, divided among its chunks; `count_forecast` clips what falls below 0."""
        with quiet():
            totals = np.stack([predict_total(model, self._windows, horizon) for model in self._models], axis=1)
        return count_forecast(totals[:, self._group] * self._share, self._dispersion, self.name)


def fit_total(total: NDArray[np.float64], phases: int) -> Any:  # noqa: ANN401 -- prophet has no types
    """Return a fitted Prophet, or the constant that the total has been in every window."""
    if (total == total[0]).all():
        return float(total[0])
    from pandas import DataFrame
    from prophet import Prophet

    model: Any = Prophet(
        n_changepoints=min(_CHANGEPOINTS, len(total) // 3),
        yearly_seasonality=False,
        weekly_seasonality=False,
        daily_seasonality=False,
        uncertainty_samples=0,
    )
    if phases > 1 and len(total) >= 2 * phases:
        model.add_seasonality("epoch", period=phases, fourier_order=min(_FOURIER_ORDER, phases // 2))
    return model.fit(DataFrame({"ds": _days(0, len(total)), "y": total}), seed=_STAN_SEED)


def predict_total(model: Any, windows: int, horizon: int) -> NDArray[np.float64]:  # noqa: ANN401 -- prophet has no types
    """Return what a fitted total will be in the windows after the first `windows`, shape (horizon,); it may be < 0."""
    if isinstance(model, float):
        return np.full(horizon, model)
    from pandas import DataFrame

    table: Any = model.predict(DataFrame({"ds": _days(windows, horizon)}))
    return np.asarray(table["yhat"], np.float64)


def _days(first: int, count: int) -> NDArray[np.datetime64]:
    """Prophet knows dates only: window w becomes day w of an arbitrary epoch."""
    return np.datetime64("2000-01-01", "ns") + np.arange(first, first + count) * np.timedelta64(1, "D")


@contextmanager
def quiet() -> Generator[None]:
    """Hold back what prophet and cmdstanpy log and warn about at every import and fit; all is as before afterwards."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [logger.disabled for logger in loggers]
    try:
        for logger in loggers:
            logger.disabled = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled
