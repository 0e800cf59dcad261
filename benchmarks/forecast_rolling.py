"""Every window of a log forecast from those before it, with what `forecast_chunks` had to go by at that time.

Windows are forecast one ahead, also where an epoch has several, of which `forecast_chunks` forecasts all. Which model
is taken, and whether its probabilities are calibrated, is decided from the windows before, by the rules of
`foreshard.forecast.backtest`, whose trials these are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.forecast_data import Case
from foreshard.access.history import History
from foreshard.forecast.backtest import METRICS, ORIGINS, SCORED
from foreshard.forecast.base import Forecast
from foreshard.forecast.calibration import choose_platt
from foreshard.forecast.ewma import EwmaForecaster
from foreshard.forecast.metrics import brier_skill
from foreshard.forecast.registry import make_forecasters
from foreshard.forecast.selection import choose_model, default_model, regret
from foreshard.forecast.trials import (
    LAST,
    LAST_PLATT,
    Outcome,
    Scores,
    Trial,
    outcome_at,
    try_forecast,
    try_last,
    try_last_platt,
)

DEPTH: Final = 0.1
"""Rankings are judged as deep as a tenth of the objects seen; the cache of the hit mass holds a tenth of all."""

SHIPPED: Final = "foreshard"
"""The forecast that would have been used: the chosen model's, calibrated where that helped before."""


@dataclass(frozen=True)
class Rolled:
    """What came of it.

    Attributes:
        first: the first window that counts.
        scores: by model and baseline, and of `SHIPPED`, of the windows that count, oldest first.
        choices: the model that `SHIPPED` took in each of them.
        calibrated: in how many of them its probabilities were calibrated.
        expected: what `SHIPPED` expected of every window from the first one tried on, float64 (C,); before those that
            count, it is the default model.
        regret: by how much the best candidate's mean hit mass exceeds that of `SHIPPED`, in hindsight; at least 0.
    """

    first: int
    scores: dict[str, list[Scores]]
    choices: list[str]
    calibrated: int
    expected: dict[int, NDArray[np.float64]]
    regret: float

    def mean(self, name: str, metric: str) -> float:
        """Return the mean of a metric over the windows that count."""
        return float(np.mean([getattr(each, metric) for each in self.scores[name]]))

    def skill(self, name: str, reference: str) -> float:
        """Return the Brier skill of one row against another, from their means."""
        skill = brier_skill(self.mean(name, "brier"), self.mean(reference, "brier"))
        assert skill is not None, "a baseline without error leaves nothing to compare"
        return skill

    def table(self) -> dict[str, dict[str, float]]:
        """Return the means by row and metric."""
        rows = {name: {metric: self.mean(name, metric) for metric in METRICS} for name in self.scores}
        for name, row in rows.items():
            row["brier_skill_vs_last"] = self.skill(name, LAST)
        return rows


def roll(case: Case, candidates: Sequence[str]) -> Rolled:
    """Forecast the newest windows of a log.

    Args:
        case: the log.
        candidates: forecasters to choose from, none of which abstains.
    """
    history, windows = case.trace.history(), case.trace.windows
    first = windows - case.evaluated
    trials: dict[str, list[Trial]] = {name: [] for name in candidates}
    baselines: dict[str, list[Scores]] = {LAST: [], LAST_PLATT: []}
    shipped: list[Scores] = []
    outcomes: list[Outcome] = []
    found = Rolled(first, {}, [], 0, {}, 0.0)
    calibrated = 0
    for origin in range(first - ORIGINS, windows):
        outcome = outcome_at(history, origin, 1)
        past = history.until(origin)
        forecasts = {name: made.fit(past).predict(1) for name, made in make_forecasters(candidates).items()}
        model = default_model(candidates)
        if origin >= first:
            model, forecast = _ship(trials, forecasts)
            shipped.append(try_forecast(forecast, outcome, DEPTH)[0].scores)
            calibrated += forecast is not forecasts[model]
            found.choices.append(model)
            baselines[LAST].append(try_last(outcome, DEPTH).scores)
            platt = try_last_platt(outcome, outcomes, DEPTH)
            assert platt is not None, "the log has windows in which some chunks are read and some are not"
            baselines[LAST_PLATT].append(platt.scores)
        found.expected[origin] = forecasts[model].expected[0]
        for name, forecast in forecasts.items():
            trials[name].append(try_forecast(forecast, outcome, DEPTH)[0])
        outcomes.append(outcome)
    tried = {name: [trial.scores for trial in each[ORIGINS:]] for name, each in trials.items()}
    best = regret({SHIPPED: shipped, **tried}, SHIPPED)
    return replace(found, scores={SHIPPED: shipped, **tried, **baselines}, calibrated=calibrated, regret=best)


def expected_of(history: History, rolled: Rolled, window: int) -> NDArray[np.float64]:
    """Return what was expected of a window; long before those that count, the moving average will do."""
    if window in rolled.expected:
        return rolled.expected[window]
    return EwmaForecaster().fit(history.until(window)).predict(1).expected[0]


def _ship(trials: dict[str, list[Trial]], forecasts: dict[str, Forecast]) -> tuple[str, Forecast]:
    """Return the model chosen by what is known, and its forecast as it would be used."""
    model = choose_model({name: [trial.scores for trial in each[-SCORED:]] for name, each in trials.items()})
    tried = trials[model][-ORIGINS:]
    curve = choose_platt([trial.probability for trial in tried], [trial.accessed for trial in tried], 1)
    forecast = forecasts[model]
    return model, forecast if curve is None else replace(forecast, probability=curve.apply(forecast.probability))
