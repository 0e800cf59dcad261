"""The default: several forecasters' opinions in one, safer than any of them alone."""

from collections.abc import Callable, Sequence
from typing import Self

import numpy as np

from foreshard.access.history import History
from foreshard.forecast.base import Forecast, Forecaster, require_windows
from foreshard.forecast.ewma import EwmaForecaster
from foreshard.forecast.trend import TrendForecaster


class EnsembleForecaster:
    """Mean of its members: of log(1 + count) for the counts, so that one wild member weighs little; plain for the rest.

    Args:
        members: what makes each member; by default the moving average with and without trend, which cost milliseconds
            for 100,000 chunks. Prophet is not among them: its cost would be paid at every backtest origin twice.
    """

    name = "ensemble"

    def __init__(self, members: Sequence[Callable[[], Forecaster]] = (EwmaForecaster, TrendForecaster)) -> None:
        self._members = [make() for make in members]
        self.min_windows = max(member.min_windows for member in self._members)

    def fit(self, history: History) -> Self:
        """Fit every member."""
        require_windows(self.name, self.min_windows, history)
        self._members = [member.fit(history) for member in self._members]
        return self

    def predict(self, horizon: int) -> Forecast:
        """Return the members' mean."""
        parts = [member.predict(horizon) for member in self._members]
        expected = np.expm1(np.mean([np.log1p(part.expected) for part in parts], axis=0))
        return Forecast(
            expected,
            np.mean([part.probability for part in parts], axis=0),
            np.minimum(expected, np.mean([part.lower for part in parts], axis=0)),
            np.maximum(expected, np.mean([part.upper for part in parts], axis=0)),
            self.name,
        )
