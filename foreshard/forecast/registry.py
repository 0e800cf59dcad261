"""The forecasters there are, by name."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from foreshard.errors import ConfigError
from foreshard.forecast.base import Forecaster
from foreshard.forecast.ensemble import EnsembleForecaster
from foreshard.forecast.ewma import EwmaForecaster
from foreshard.forecast.grouped_prophet import GroupedProphetForecaster
from foreshard.forecast.last import LastForecaster
from foreshard.forecast.trend import TrendForecaster

FORECASTERS: Final[Mapping[str, Callable[[], Forecaster]]] = {
    "last": LastForecaster,
    "ewma": EwmaForecaster,
    "trend": TrendForecaster,
    "prophet": GroupedProphetForecaster,
    "ensemble": EnsembleForecaster,
}

DEFAULT_NAMES: Final = ("last", "ewma", "prophet", "ensemble")
"""What is backtested unless told otherwise."""


def make_forecasters(names: Sequence[str]) -> dict[str, Forecaster]:
    """Return new forecasters by name, in the order given.

    Raises:
        ConfigError: no name, an unknown one, or one given twice.
    """
    unknown = [name for name in names if name not in FORECASTERS]
    if unknown or not names or len(set(names)) != len(names):
        raise ConfigError(f"forecasters {list(names)} are not usable: choose distinct ones of {', '.join(FORECASTERS)}")
    return {name: FORECASTERS[name]() for name in names}
