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
        made = {key: member.predict(horizon) for key, member in self._fitted.items()}
        counts = [made[id(member)] for member in self._counting if id(member) in made]
        weights = [_WEIGHTS.get(part.model, 1.0) for part in counts]
        odds = [made[id(member)] for member in self._judging if id(member) in made] or counts
        logs = [np.log(part.expected + _LITTLE) for part in counts]
        # Exactly 0 where nobody expects any: the exponential of a logarithm is only nearly what it was.
        some = np.any([part.expected > 0 for part in counts], axis=0)
        mean = np.average(logs, axis=0, weights=weights)
        expected = np.where(some, np.maximum(np.exp(mean) - _LITTLE, 0.0), 0.0)
        return Forecast(
            expected,
            np.mean([part.probability for part in odds], axis=0),
            # Whole like theirs, see `count_forecast`.
            np.floor(np.minimum(expected, np.average([part.lower for part in counts], axis=0, weights=weights))),
            np.maximum(expected, np.average([part.upper for part in counts], axis=0, weights=weights)),
            self.name,
            "; ".join(f"without {name}: {reason}" for name, reason in self.left_out.items()),
        )
