"""The default: several forecasters' opinions in one, safer than any of them alone.

Which members: boosted trees correct what the moving average cannot see, the average holds them where they go wrong, and
a regression beside the trees makes better probabilities than either (research/forecast.md §2b, `ens`).
"""

from collections.abc import Sequence
from typing import Final, Self

import numpy as np

from foreshard.access.history import History
from foreshard.forecast.base import Forecast, Forecaster, require_windows, why_not
from foreshard.forecast.ewma import EwmaForecaster
from foreshard.forecast.gbm import GbmForecaster
from foreshard.forecast.logistic import LogisticForecaster

_WEIGHTS: Final = {GbmForecaster.name: 2.0}
"""Of counting members by name; 1 for the others. Boosted trees begin at the moving average and their correction is
shrunk already, so that half of it is too little; but without the average they lose on logs that drift most
(research/forecast.md §2b, P3, P12)."""

_LITTLE: Final = 0.01
"""Draws added before logarithms are averaged, so that a member that expects none does not overrule the others."""


class EnsembleForecaster:
    """Weighted mean of the logarithms of the counts that some members expect, mean of the probabilities that some give.

    Members that abstain are left out, and the forecast's note says which and why. With a history too short for the
    learned ones the moving average is left.

    Args:
        counting: members whose counts are averaged, boosted trees twice; the first must never abstain. By default the
            moving average and boosted trees.
        judging: members whose probabilities are averaged, or those of the counting ones if all abstain. By default
            boosted trees and logistic regression.
    """

    name = "ensemble"
    min_windows = 1

    def __init__(
        self, counting: Sequence[Forecaster] | None = None, judging: Sequence[Forecaster] | None = None
    ) -> None:
        gbm = GbmForecaster()
        self._counting = list(counting) if counting is not None else [EwmaForecaster(), gbm]
        self._judging = list(judging) if judging is not None else [gbm, LogisticForecaster()]

    def fit(self, history: History) -> Self:
        """Fit every member that can be."""
        require_windows(self.name, self.min_windows, history)
        members = {id(member): member for member in (*self._counting, *self._judging)}
        reasons = {key: why_not(member, history) for key, member in members.items()}
        self.left_out = {member.name: reason for key, member in members.items() if (reason := reasons[key])}
        self._fitted = {key: member.fit(history) for key, member in members.items() if not reasons[key]}
        return self

    def predict(self, horizon: int) -> Forecast:
        """Return the mean of the members that were fitted."""
        counting = {id(member) for member in self._counting}
        judging = {id(member) for member in self._judging} & self._fitted.keys() or counting & self._fitted.keys()
        # Member by member: together their forecasts are larger than many a history.
        log, lower, upper, probability, some = 0.0, 0.0, 0.0, 0.0, False
        total = 0.0
        for key, member in self._fitted.items():
            part = member.predict(horizon)
            if key in judging:
                probability = probability + part.probability
            if key in counting:
                weight = _WEIGHTS.get(part.model, 1.0)
                total += weight
                log = log + np.log(part.expected + _LITTLE) * weight
                lower, upper = lower + part.lower * weight, upper + part.upper * weight
                some = some | (part.expected > 0)
            del part
        # Exactly 0 where nobody expects any: the exponential of a logarithm is only nearly what it was.
        expected = np.where(some, np.maximum(np.exp(log / total) - _LITTLE, 0.0), 0.0)
        return Forecast(
            expected,
            np.asarray(probability / len(judging), np.float64),
            # Whole like theirs, see `count_forecast`.
            np.floor(np.minimum(expected, lower / total)),
            np.maximum(expected, upper / total),
            self.name,
            "; ".join(f"without {name}: {reason}" for name, reason in self.left_out.items()),
        )
