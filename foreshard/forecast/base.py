"""What a forecaster is, what it returns, and the count distribution behind probabilities and bounds."""

from dataclasses import dataclass
from typing import Final, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from foreshard.access.history import History
from foreshard.errors import ConfigError

INTERVAL: Final = 0.8
"""Share of outcomes that lie between `lower` and `upper`, as long as levels scatter as they did."""

_Z: Final = 1.2815515655446004
"""Standard normal quantile of (1 + INTERVAL) / 2."""

_NEARLY_POISSON: Final = 1e-9

_BLOCK: Final = 1 << 14
"""Chunks whose bounds are made at a time; what they are made of is as large as the forecast several times over."""


@dataclass(frozen=True)
class Forecast:
    """Accesses of C chunks in each of the next H windows; every array has shape (H, C).

    Attributes:
        expected: mean number of draws; what chunks are ranked by.
        probability: of at least one draw.
        lower: bound below which the number falls in 10 % of cases.
        upper: bound above which it falls in 10 % of cases.
        model: name of the forecaster.
        note: what is particular about this forecast, such as members that an ensemble had to do without; or empty.
    """

    expected: NDArray[np.float64]
    probability: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    model: str
    note: str = ""


class Forecaster(Protocol):
    """Learns from a history and tells the windows after it. Deterministic: no clock, no unseeded randomness.

    Attributes:
        name: its name in `FORECASTERS`.
        min_windows: it abstains from histories shorter than this.
    """

    name: str
    min_windows: int

    def fit(self, history: History) -> Self:
        """Learn from a history of at least `min_windows` windows.

        Raises:
            ConfigError: the history is shorter.
        """
        ...

    def predict(self, horizon: int) -> Forecast:
        """Return the next `horizon` windows."""
        ...


@runtime_checkable
class Dependent(Protocol):
    """A forecaster that needs a library which may be missing or broken."""

    def unavailable(self) -> str | None:
        """Return why it cannot be used on this machine, with the fix; None if it can."""
        ...


def why_not(forecaster: Forecaster, history: History) -> str | None:
    """Return why a forecaster abstains from a history: too few windows or a missing library; None if it doesn't."""
    if history.windows < forecaster.min_windows:
        return f"needs {forecaster.min_windows} windows, had {history.windows} at an origin"
    return forecaster.unavailable() if isinstance(forecaster, Dependent) else None


def require_windows(name: str, needed: int, history: History) -> None:
    """Refuse a history that is too short.

    Raises:
        ConfigError: naming the forecaster, what it needs and what there is.
    """
    if history.windows < needed:
        raise ConfigError(
            f"forecaster {name!r} needs {needed} windows and the history has {history.windows}; "
            "log more epochs, or choose 'ewma'"
        )


def count_forecast(expected: NDArray[np.float64], dispersion: float | NDArray[np.float64], model: str) -> Forecast:
    """Return the forecast of counts that are negative binomial with the given means.

    The variance is `mean + dispersion * mean**2`; dispersion 0 is the Poisson distribution. The bounds are those of the
    gamma distribution of equal mean and variance, by the cube-root approximation of Wilson and Hilferty (PNAS 17,
    1931), widened to include the mean.

    Args:
        expected: shape (H, C), not negative.
        dispersion: at least 0; one for all, or shape (C,).
        model: name of the forecaster.
    """
    mean = np.maximum(expected, 0.0)
    each = np.broadcast_to(np.asarray(dispersion, np.float64), mean.shape[-1:])
    probability, lower, upper = (np.empty(mean.shape) for _ in range(3))
    for first in range(0, mean.shape[-1], _BLOCK):
        block = slice(first, first + _BLOCK)
        found = _distribution(mean[:, block], each[block])
        probability[:, block], lower[:, block], upper[:, block] = found
    return Forecast(mean, probability, lower, upper, model)


def _distribution(
    mean: NDArray[np.float64], dispersion: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the probability of a draw and the bounds, shape (H, B) each, see `count_forecast`."""
    rate = draw_rate(mean, dispersion)
    # Shape of the gamma distribution with this mean and variance; a mean of 0 gives bounds of 0 below.
    shape = np.maximum(mean, 1e-12) / (1.0 + dispersion * mean)
    centre, spread = 1.0 - 1.0 / (9.0 * shape), _Z / (3.0 * np.sqrt(shape))
    lower = mean * np.maximum(centre - spread, 0.0) ** 3
    upper = mean * np.maximum(centre + spread, 0.0) ** 3
    # Counts are whole: a bound between 0 and 1 would leave out the most frequent count of all.
    return -np.expm1(-rate), np.floor(np.minimum(lower, mean)), np.maximum(upper, mean)


def draw_rate(mean: NDArray[np.float64], dispersion: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return minus the logarithm of the probability of no draw, for the counts of `count_forecast`.

    Args:
        mean: shape (..., C), not negative.
        dispersion: at least 0; one for all, or shape (C,).
    """
    divisor = np.maximum(dispersion, _NEARLY_POISSON)
    return np.where(np.asarray(dispersion) < _NEARLY_POISSON, mean, np.log1p(divisor * mean) / divisor)


def sigmoid(odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probabilities of log odds, in the form that overflows nowhere."""
    return 0.5 * (1.0 + np.tanh(0.5 * odds))
