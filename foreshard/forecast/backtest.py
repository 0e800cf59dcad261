"""Rolling-origin backtest: every forecaster predicts windows that are known by now, from what was known before them.

What counts is the hit mass: the share of draws that falls on the chunks ranked highest, as many as fit into the cache.
`selection` says when a model takes the default's place, `trials` which chunks count. Windows have to be of equal
numbers of steps, as an epoch's phases are; where volumes jump, scores of different origins are of different things.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, cast

import pyarrow as pa
import pyarrow.compute as pc

from foreshard.access.history import History
from foreshard.errors import ConfigError
from foreshard.forecast.base import why_not
from foreshard.forecast.calibration import Platt, choose_platt, tried_platt
from foreshard.forecast.metrics import calibration_error, relative_error
from foreshard.forecast.registry import make_forecasters
from foreshard.forecast.selection import choose_model, regret
from foreshard.forecast.trials import (
    LAST,
    LAST_PLATT,
    HeldOut,
    Outcome,
    Scores,
    Trial,
    outcome_at,
    try_forecast,
    try_last,
    try_last_platt,
)

METRICS: Final = ("hit_mass", "ndcg", "precision", "brier", "brier_skill_vs_last", "ece", "log_loss")
"""Fields of `Scores`."""

BACKTEST_SCHEMA: Final = pa.schema(
    [("model", pa.string()), ("origin", pa.int32()), *((metric, pa.float64()) for metric in METRICS)]
)
"""One row per (model or baseline, origin) that was scored; `origin` is the number of windows known then."""

MIN_WINDOWS: Final = 3
"""Fewer windows leave nothing to hold out."""

ORIGINS: Final = 4
SCORED: Final = 3
"""Models are compared on the newest three of four origins; the oldest is there to calibrate by."""

BASELINES: Final = (LAST, LAST_PLATT)

_USUAL_PAST: Final = 8


@dataclass(frozen=True)
class Backtest:
    """Scores, and what follows from them.

    Attributes:
        scores: rows of `BACKTEST_SCHEMA`, those of the baselines last; before calibration, except `last_platt`.
        chosen: the model to use.
        abstained: why a model gave no forecast from some scored origin or any; such a model is not chosen.
        notes: what is particular about a model's newest forecast, such as members that it does without.
        calibration: curve for the chosen model's probabilities, if it helps.
        regret: by how much the best model's mean hit mass exceeds the chosen one's.
        error: of the chosen model's expected counts from the newest origin, see `relative_error`.
        ece: calibration error of the chosen model's probabilities as held out.
        held_out: the chosen model's forecast from the newest origin, which the plots show; its probabilities are
            calibrated by a curve that has not seen these windows, if the curve is kept.
    """

    scores: pa.Table
    chosen: str
    abstained: Mapping[str, str]
    notes: Mapping[str, str]
    calibration: Platt | None
    regret: float
    error: float
    ece: float
    held_out: HeldOut

    def summary(self) -> list[dict[str, str | int | float | None]]:
        """Return one row per model and baseline, the best hit mass first: means over its origins, and its status.

        A status is `chosen`, `scored`, `abstained` (with a reason) or `baseline`; a model's note is a reason too.
        """
        names = [str(name) for name in self.scores.column("model").to_pylist()]
        rows: list[dict[str, str | int | float | None]] = []
        for model in dict.fromkeys([*names, *self.abstained]):
            mine = self.scores.filter(pa.array([name == model for name in names], pa.bool_()))
            row: dict[str, str | int | float | None] = {"model": model, "origins": mine.num_rows}
            row |= {metric: _mean(mine.column(metric)) for metric in METRICS}
            row["status"] = self._status(model)
            row["reason"] = self.abstained.get(model, "") or self.notes.get(model, "")
            rows.append(row)
        return sorted(rows, key=lambda row: -float(row["hit_mass"] if row["hit_mass"] is not None else -1.0))

    def _status(self, model: str) -> str:
        if model in BASELINES:
            return "baseline"
        return "chosen" if model == self.chosen else "abstained" if model in self.abstained else "scored"


def backtest(
    history: History, names: Sequence[str], *, cache_fraction: float, origins: int = ORIGINS, scored: int = SCORED
) -> Backtest:
    """Score forecasters on the newest windows of a history and choose one.

    Args:
        history: at least `MIN_WINDOWS` windows.
        names: forecasters, see `FORECASTERS`.
        cache_fraction: share of the chunks that fit into the cache, in (0, 1].
        origins: forecasts of the chosen model, each of up to an epoch; fewer where the history is short.
        scored: on how many of them, the newest, all models are compared; on all if there are fewer.

    Raises:
        ConfigError: an unknown forecaster, a fraction or number of origins that cannot be, too short a history, or
            one from which every forecaster abstains.
    """
    make_forecasters(names)
    if not 0 < cache_fraction <= 1 or min(origins, scored) < 1:
        raise ConfigError(
            f"cache fraction {cache_fraction} must be in (0, 1], origins {origins} and scored {scored} at least 1"
        )
    if history.windows < MIN_WINDOWS or not history.chunks:
        raise ConfigError(
            f"a backtest needs {MIN_WINDOWS} windows and a chunk; the history has {history.windows} windows of "
            f"{history.chunks} chunks"
        )
    horizon = max(1, min(history.phases_per_epoch, history.windows // 2))
    points = origin_windows(history.windows, horizon, origins)
    outcomes = [outcome_at(history, origin, horizon) for origin in points]
    found = _compare(history, names, outcomes[-scored:], cache_fraction)
    if not found.scores:
        reasons = "; ".join(f"{name} {why}" for name, why in found.abstained.items())
        raise ConfigError(f"every forecaster abstained ({reasons}); add 'ewma', or log more epochs")
    chosen = choose_model(found.scores)
    older = _compare(history, [chosen], outcomes[:-scored], cache_fraction).trials[chosen]
    tried = [*older, *found.trials[chosen]]
    unseen = min(points[-1] - points[-2], horizon) if len(points) > 1 else horizon
    calibration, held = _calibrate(tried, found.held_out[chosen], unseen)
    return Backtest(
        _table({**found.trials, **_baselines(outcomes, scored, cache_fraction)}),
        chosen,
        found.abstained,
        found.notes,
        calibration,
        regret(found.scores, chosen),
        relative_error(held.expected, held.actual),
        calibration_error(held.probability, held.accessed),
        held,
    )


def origin_windows(windows: int, horizon: int, origins: int) -> list[int]:
    """Return how many windows are known at each origin, ascending; fewer than asked for where the history is short.

    The newest origin is followed by exactly `horizon` windows. The others lie a horizon apart, so that none is scored
    on another's windows and all stand at the phase that the next forecast is made at, while they leave two horizons of
    past. Where that gives fewer than three, three lie closer together, and leave eight windows if there are as many.
    """
    newest = windows - horizon
    apart = 1 + (newest - 2 * horizon) // horizon
    count = min(origins, newest, max(SCORED, apart))
    if count == 1:
        return [newest]
    oldest = newest - (count - 1) * horizon if count <= apart else min(_USUAL_PAST, newest - (count - 1))
    stride = max(1, min(horizon, (newest - oldest) // (count - 1)))
    return [newest - stride * back for back in reversed(range(count))]


@dataclass(frozen=True)
class _Compared:
    """Forecasts of several models from the same origins.

    Attributes:
        trials: by model, of the origins that it did not abstain from, ascending.
        held_out: by model, its forecast from the newest of them.
        abstained: by model, why it gave no forecast from some origin.
        notes: by model, what is particular about its newest forecast, or nothing.
    """

    trials: dict[str, list[Trial]]
    held_out: dict[str, HeldOut]
    abstained: dict[str, str]
    notes: dict[str, str]

    @property
    def scores(self) -> dict[str, list[Scores]]:
        """By model, of those that did not abstain."""
        tested = {name: trials for name, trials in self.trials.items() if name not in self.abstained}
        return {name: [trial.scores for trial in trials] for name, trials in tested.items()}


def _compare(history: History, names: Sequence[str], outcomes: Sequence[Outcome], cache_fraction: float) -> _Compared:
    found = _Compared({name: [] for name in names}, {}, {}, {})
    for outcome in outcomes:
        past, horizon = history.until(outcome.origin), len(outcome.accessed)
        for name, forecaster in make_forecasters(names).items():
            reason = why_not(forecaster, past)
            if reason:
                found.abstained.setdefault(name, reason)
                continue
            forecast = forecaster.fit(past).predict(horizon)
            trial, found.held_out[name] = try_forecast(forecast, outcome, cache_fraction)
            found.trials[name].append(trial)
            found.notes[name] = forecast.note
    return found


def _calibrate(tried: Sequence[Trial], held: HeldOut, unseen: int) -> tuple[Platt | None, HeldOut]:
    """Return the curve to use, if any, and the held-out forecast calibrated by one that has not seen its windows."""
    said, came = [trial.probability for trial in tried], [trial.accessed for trial in tried]
    honest = tried_platt(said, came, unseen)
    if honest is None:
        return None, held
    return choose_platt(said, came, unseen), replace(held, probability=honest.apply(held.probability))


def _baselines(outcomes: Sequence[Outcome], scored: int, cache_fraction: float) -> dict[str, list[Trial]]:
    """Score what every log allows to say, at the origins where models are compared."""
    first = max(0, len(outcomes) - scored)
    last = [try_last(outcome, cache_fraction) for outcome in outcomes[first:]]
    platt = [try_last_platt(outcomes[i], outcomes[:i], cache_fraction) for i in range(first, len(outcomes))]
    return {LAST: last, LAST_PLATT: [trial for trial in platt if trial is not None]}


def _table(trials: Mapping[str, Sequence[Trial]]) -> pa.Table:
    rows = [
        {"model": name, "origin": trial.origin, **asdict(trial.scores)}
        for name, found in trials.items()
        for trial in found
    ]
    return pa.Table.from_pylist(rows, BACKTEST_SCHEMA)


def _mean(column: "pa.ChunkedArray[Any]") -> float | None:
    """Return the mean of the values that are there."""
    return cast("float | None", pc.mean(column).as_py())
