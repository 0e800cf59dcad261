"""Rolling-origin backtest: every forecaster predicts windows that are known by now, from what was known before them.

What counts is the hit mass: the share of draws that falls on the chunks ranked highest, as many as fit into the cache.
The ensemble is the default; another model replaces it only on a clear margin, as choosing between close models by
three origins is noise (research/forecast.md §2c).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.access.history import History
from foreshard.errors import ConfigError
from foreshard.forecast.base import Forecast, why_not
from foreshard.forecast.calibration import Platt, brier, choose_platt, log_loss
from foreshard.forecast.registry import make_forecasters

BACKTEST_SCHEMA: Final = pa.schema(
    [
        ("model", pa.string()),
        ("origin", pa.int32()),
        ("hit_mass", pa.float64()),
        ("brier", pa.float64()),
        ("log_loss", pa.float64()),
    ]
)
"""One row per (model, origin) that was scored; `origin` is the number of windows known then."""

MIN_WINDOWS: Final = 3
"""Fewer windows leave nothing to hold out."""

_PREFERENCE: Final = ("ensemble", "ewma")
_CLEAR_GAIN: Final = 0.005
_USUAL_PAST: Final = 8
"""Origins are laid so that every one leaves this many windows of past, if the history has them."""


@dataclass(frozen=True)
class HeldOut:
    """The chosen model's forecast from the newest origin, and what happened.

    Attributes:
        expected: shape (C,), draws in all held-out windows.
        actual: shape (C,), the same as it came.
        probability: shape (H, C), calibrated.
        accessed: shape (H, C), whether there was a draw.
    """

    expected: NDArray[np.float64]
    actual: NDArray[np.float64]
    probability: NDArray[np.float64]
    accessed: NDArray[np.bool_]


@dataclass(frozen=True)
class Backtest:
    """Scores, and what follows from them.

    Attributes:
        scores: rows of `BACKTEST_SCHEMA`.
        chosen: the model to use.
        abstained: why a model gave no forecast from some origin or any; such a model is not chosen.
        calibration: curve for the chosen model's probabilities, if it helps.
        error: of the chosen model's expected counts from the newest origin, see `relative_error`.
        held_out: what the plots show.
    """

    scores: pa.Table
    chosen: str
    abstained: Mapping[str, str]
    calibration: Platt | None
    error: float
    held_out: HeldOut

    def summary(self) -> list[dict[str, str | int | float | None]]:
        """Return one row per model, the best hit mass first: means over its origins, and whether it was chosen."""
        names = [str(name) for name in self.scores.column("model").to_pylist()]
        rows: list[dict[str, str | int | float | None]] = []
        for model in dict.fromkeys([*names, *self.abstained]):
            mine = self.scores.filter(pa.array([name == model for name in names], pa.bool_()))
            row: dict[str, str | int | float | None] = {"model": model, "origins": mine.num_rows}
            for metric in ("hit_mass", "brier", "log_loss"):
                row[metric] = float(np.mean(mine.column(metric).to_numpy())) if mine.num_rows else None
            row["status"] = "chosen" if model == self.chosen else "abstained" if model in self.abstained else "scored"
            row["reason"] = self.abstained.get(model, "")
            rows.append(row)
        return sorted(rows, key=lambda row: -float(row["hit_mass"] if row["hit_mass"] is not None else -1.0))


@dataclass(frozen=True)
class _Trial:
    """What is kept of one model's forecast from one origin; probabilities in float32, as there are many."""

    hit_mass: float
    brier: float
    log_loss: float
    expected: NDArray[np.float64]
    probability: NDArray[np.float32]


def backtest(history: History, names: Sequence[str], *, cache_fraction: float, origins: int = 3) -> Backtest:
    """Score forecasters on the newest windows of a history and choose one.

    Args:
        history: at least `MIN_WINDOWS` windows.
        names: forecasters, see `FORECASTERS`.
        cache_fraction: share of the chunks that fit into the cache, in (0, 1].
        origins: forecasts per model, each of up to an epoch; fewer where the history is short.

    Raises:
        ConfigError: an unknown forecaster, a fraction or number of origins that cannot be, too short a history, or
            one from which every forecaster abstains.
    """
    make_forecasters(names)
    if not 0 < cache_fraction <= 1 or origins < 1:
        raise ConfigError(f"cache fraction {cache_fraction} must be in (0, 1] and origins {origins} at least 1")
    if history.windows < MIN_WINDOWS or not history.chunks:
        raise ConfigError(
            f"a backtest needs {MIN_WINDOWS} windows and a chunk; the history has {history.windows} windows of "
            f"{history.chunks} chunks"
        )
    horizon = max(1, min(history.phases_per_epoch, history.windows // 2))
    points = origin_windows(history.windows, horizon, origins)
    trials: dict[str, list[_Trial]] = {name: [] for name in names}
    abstained: dict[str, str] = {}
    for origin in points:
        past, future = history.until(origin), history.counts[origin : origin + horizon]
        for name, forecaster in make_forecasters(names).items():
            reason = why_not(forecaster, past)
            if reason:
                abstained.setdefault(name, reason)
                continue
            trials[name].append(_score(forecaster.fit(past).predict(horizon), future, cache_fraction))
    chosen = _choose({name: found for name, found in trials.items() if name not in abstained}, abstained)
    outcomes = [history.counts[origin : origin + horizon] > 0 for origin in points]
    unseen = points[-1] - points[-2] if len(points) > 1 else horizon
    calibration = choose_platt([trial.probability for trial in trials[chosen]], outcomes, min(unseen, horizon))
    newest = trials[chosen][-1]
    probability = calibration.apply(newest.probability) if calibration else newest.probability.astype(np.float64)
    actual = history.counts[points[-1] : points[-1] + horizon].sum(0)
    held_out = HeldOut(newest.expected, actual, probability, outcomes[-1])
    error = relative_error(newest.expected, actual)
    return Backtest(_table(trials, points, abstained), chosen, abstained, calibration, error, held_out)


def origin_windows(windows: int, horizon: int, origins: int) -> list[int]:
    """Return how many windows are known at each origin, ascending.

    The newest origin is followed by exactly `horizon` windows. The others lie up to a horizon apart, closer together
    where the oldest would otherwise be left with fewer than eight windows.
    """
    newest = windows - horizon
    count = min(origins, newest)
    if count == 1:
        return [newest]
    oldest = min(_USUAL_PAST, newest - (count - 1))
    stride = max(1, min(horizon, (newest - oldest) // (count - 1)))
    return [newest - stride * back for back in reversed(range(count))]


def hit_mass(expected: NDArray[np.float64], actual: NDArray[np.float64], cache_fraction: float) -> float:
    """Return the share of draws on the chunks expected to be hottest, as many as fit; 1 if nothing was drawn.

    Args:
        expected: shape (C,).
        actual: shape (C,).
        cache_fraction: share of the C chunks that fit, rounded up to whole chunks.
    """
    total = float(actual.sum())
    if not total:
        return 1.0
    # Rounded before it is rounded up: 0.1 * 30 is a little more than 3.
    fits = int(np.ceil(round(cache_fraction * len(expected), 9)))
    return float(actual[np.argsort(-expected, kind="stable")[:fits]].sum()) / total


def relative_error(expected: NDArray[np.float64], actual: NDArray[np.float64]) -> float:
    """Return sum |expected - actual| / sum max(expected, actual) over chunks: 0 if all agree, 1 if none overlap.

    Counting noise is part of it: a perfect forecast of few draws has an error too.
    """
    larger = float(np.maximum(expected, actual).sum())
    return float(np.abs(expected - actual).sum()) / larger if larger else 0.0


def _score(forecast: Forecast, future: NDArray[np.float64], cache_fraction: float) -> _Trial:
    expected, accessed = forecast.expected.sum(0), future > 0
    return _Trial(
        hit_mass(expected, future.sum(0), cache_fraction),
        brier(forecast.probability, accessed),
        log_loss(forecast.probability, accessed),
        expected,
        forecast.probability.astype(np.float32),
    )


def _choose(trials: Mapping[str, Sequence[_Trial]], abstained: Mapping[str, str]) -> str:
    """The default, unless another gains more than one standard error and half a percent of hit mass over it."""
    if not trials:
        reasons = "; ".join(f"{name} {why}" for name, why in abstained.items())
        raise ConfigError(f"every forecaster abstained ({reasons}); add 'ewma', or log more epochs")
    chosen = default = next((name for name in _PREFERENCE if name in trials), next(iter(trials)))
    most = 0.0
    for name, found in trials.items():
        gains = np.array([a.hit_mass - b.hit_mass for a, b in zip(found, trials[default], strict=True)])
        noise = float(gains.std(ddof=1)) / np.sqrt(len(gains)) if len(gains) > 1 else 0.0
        mean = float(gains.mean())
        if mean > max(noise, _CLEAR_GAIN, most):
            chosen, most = name, mean
    return chosen


def _table(trials: Mapping[str, Sequence[_Trial]], points: Sequence[int], abstained: Mapping[str, str]) -> pa.Table:
    """A model abstains from the oldest origins, so what it scored are the newest ones."""
    rows = [
        {"model": name, "origin": origin, "hit_mass": t.hit_mass, "brier": t.brier, "log_loss": t.log_loss}
        for name, found in trials.items()
        for origin, t in zip(points[len(points) - len(found) :], found, strict=True)
    ]
    assert abstained or len(rows) == len(trials) * len(points)
    return pa.Table.from_pylist(rows, BACKTEST_SCHEMA)
