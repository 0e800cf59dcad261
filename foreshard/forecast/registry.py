"""The forecasters there are, by name."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from foreshard.access.history import History
from foreshard.errors import ConfigError
from foreshard.forecast.base import Forecaster
from foreshard.forecast.ensemble import EnsembleForecaster
from foreshard.forecast.ewma import EwmaForecaster
from foreshard.forecast.gbm import GbmForecaster
from foreshard.forecast.grouped_prophet import GroupedProphetForecaster
from foreshard.forecast.last import LastForecaster
from foreshard.forecast.logistic import LogisticForecaster
from foreshard.forecast.lstm import LstmForecaster
from foreshard.forecast.seasonal import SeasonalForecaster
from foreshard.forecast.shared import SharedForecaster
from foreshard.forecast.trend import TrendForecaster
from foreshard.forecast.tsb import TsbForecaster

FORECASTERS: Final[Mapping[str, Callable[[], Forecaster]]] = {
    "last": LastForecaster,
    "seasonal": SeasonalForecaster,
    "ewma": EwmaForecaster,
    "trend": TrendForecaster,
    "tsb": TsbForecaster,
    "logistic": LogisticForecaster,
    "gbm": GbmForecaster,
    "prophet": GroupedProphetForecaster,
    "lstm": LstmForecaster,
    "ensemble": EnsembleForecaster,
}
"""`prophet_top.TopProphetForecaster` is not here: it is made for a list of chunks."""

DEFAULT_NAMES: Final = ("last", "seasonal", "ewma", "tsb", "gbm", "ensemble")
"""What is backtested unless told otherwise; see `default_names`."""


def default_names(history: History) -> tuple[str, ...]:
    """Return what is backtested unless told otherwise: `prophet` as well where epochs have phases.

    Without a season it was never better than the moving average (research/forecast.md §2b), and it takes long to load.
    """
    return (*DEFAULT_NAMES, "prophet") if history.phases_per_epoch > 1 else DEFAULT_NAMES


def make_forecasters(names: Sequence[str]) -> dict[str, Forecaster]:
    """Return new forecasters by name, in the order given; what the ensemble has in common with them is fitted once.

    Raises:
        ConfigError: no name, an unknown one, or one given twice.
    """
    unknown = [name for name in names if name not in FORECASTERS]
    if unknown or not names or len(set(names)) != len(names):
        raise ConfigError(f"forecasters {list(names)} are not usable: choose distinct ones of {', '.join(FORECASTERS)}")
    if "ensemble" not in names:
        return {name: FORECASTERS[name]() for name in names}
    ewma = SharedForecaster(EwmaForecaster())
    gbm = SharedForecaster(GbmForecaster(ewma.fitted))
    logistic = SharedForecaster(LogisticForecaster(ewma.fitted))
    made: dict[str, Forecaster] = {
        "ewma": ewma,
        "gbm": gbm,
        "logistic": logistic,
        "ensemble": EnsembleForecaster([ewma, gbm], [gbm, logistic]),
    }
    return {name: made[name] if name in made else FORECASTERS[name]() for name in names}
