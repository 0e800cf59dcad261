"""What was expected of past windows before they began: forecasts that cache policies are tried on."""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.access.history import History
from foreshard.forecast.base import why_not
from foreshard.forecast.registry import make_forecasters

_ALWAYS: Final = "ewma"
"""Forecasts from any history."""


def known_before(
    history: History, model: str, scored: int, *, by_phase: bool = True
) -> Callable[[int], NDArray[np.float64]]:
    """Return what tells how often every object was expected in a window, as it was known when its epoch began.

    Windows that only fill the caches are forecast by the moving average, which costs next to nothing; so are those that
    are too early for the model, as they would have been then.

    Args:
        history: all windows.
        model: the forecaster's name.
        scored: the first window that counts.
        by_phase: whether a window is told its own phase's share of the forecast, rather than the sum up to the end of
            its epoch, which is all that a choice once for the whole epoch can go by.

    Returns:
        Takes the number of a window, at least 1, and returns float64 (C,).
    """
    made: dict[tuple[int, str], NDArray[np.float64]] = {}

    def expected(window: int) -> NDArray[np.float64]:
        # Nothing is known before the first epoch: its windows are forecast one by one.
        origin = window - int(history.phases[window]) or window
        name = model if window >= scored else _ALWAYS
        if (origin, name) not in made:
            past = history.until(origin)
            forecaster = make_forecasters([name])[name]
            if why_not(forecaster, past):
                forecaster = make_forecasters([_ALWAYS])[_ALWAYS]
            horizon = history.phases_per_epoch - int(history.phases[origin])
            made.clear()
            made[origin, name] = forecaster.fit(past).predict(horizon).expected
        return made[origin, name][window - origin] if by_phase else made[origin, name].sum(0)

    return expected
