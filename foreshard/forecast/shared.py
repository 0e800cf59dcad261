"""One fit for two uses: a forecaster that is scored by itself and is a member of the ensemble too."""

from typing import Generic, Self, TypeVar

from foreshard.access.history import History
from foreshard.forecast.base import Dependent, Forecast, Forecaster

Kind = TypeVar("Kind", bound=Forecaster)


class SharedForecaster(Generic[Kind]):
    """Fits its forecaster once per history object. Histories are not changed between fits.

    Args:
        forecaster: what is shared.
    """

    def __init__(self, forecaster: Kind) -> None:
        self.name = forecaster.name
        self.min_windows = forecaster.min_windows
        self._forecaster = forecaster
        self._history: History | None = None

    def unavailable(self) -> str | None:
        """Return why the forecaster cannot be used here; None if it can."""
        return self._forecaster.unavailable() if isinstance(self._forecaster, Dependent) else None

    def fit(self, history: History) -> Self:
        """Fit it, unless this very history is what it was fitted on last."""
        if self._history is not history:
            self._history = None
            self._forecaster = self._forecaster.fit(history)
            self._history = history
        return self

    def fitted(self, history: History) -> Kind:
        """Return the forecaster itself, fitted on a history."""
        self.fit(history)
        return self._forecaster

    def predict(self, horizon: int) -> Forecast:
        """Return its forecast."""
        return self._forecaster.predict(horizon)
