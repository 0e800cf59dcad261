"""One forecast from one origin, and what came after it: scores of forecasters, and of the baselines beside them.

A chunk that was never read before an origin cannot be told from the others that were not, by any forecaster. Such
chunks are candidates of no ranking and no probability here: NDCG, precision, Brier, log-loss and calibration error are
those of the chunks that had been read by then, as in research/forecast.md §2b, whose tables this evaluation reproduces.
The hit mass is what a cache would see: its size is a share of all chunks, and chunks never read before compete for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.access.history import History
from foreshard.forecast.base import Forecast
from foreshard.forecast.calibration import POOL, fit_platt
from foreshard.forecast.metrics import (
    brier,
    brier_skill,
    calibration_error,
    hit_mass,
    log_loss,
    ndcg_at,
    precision_at,
)

LAST: Final = "last_01"
"""Baseline: a chunk is read again if, and only if, it was read in the last window; probabilities 0 and 1."""

LAST_PLATT: Final = "last_platt"
"""Baseline: the same, with the two probabilities that held on up to three earlier origins."""

_MOST_POINTS: Final = 200_000
"""Points that are kept of an origin to calibrate by; a curve of two parameters needs no more."""


@dataclass(frozen=True)
class Outcome:
    """What was known at an origin, and what came after it.

    Attributes:
        origin: how many windows were known.
        last: float64 (C,), draws in the last of them.
        seen: bool (C,), chunks that had been read by then, S of them; all if none had.
        accessed: bool (H, S), whether these were read in each window after it.
        actual: float64 (C,), draws in all windows after it.
        reference: Brier score of the baseline `LAST`.
    """

    origin: int
    last: NDArray[np.float64]
    seen: NDArray[np.bool_]
    accessed: NDArray[np.bool_]
    actual: NDArray[np.float64]
    reference: float


@dataclass(frozen=True)
class Scores:
    """How good one forecast was; see `metrics`. The depth of rankings is the cache's share of the chunks.

    Attributes:
        hit_mass: of all chunks; what models are chosen by.
        ndcg: of the chunks seen.
        precision: of the chunks seen.
        brier: over windows and chunks seen.
        brier_skill_vs_last: against the baseline `LAST`, what decides between equal hit masses; None where that made no
            error, and the Brier score decides.
        ece: expected calibration error.
        log_loss: in nats.
    """

    hit_mass: float
    ndcg: float
    precision: float
    brier: float
    brier_skill_vs_last: float | None
    ece: float
    log_loss: float


@dataclass(frozen=True)
class Trial:
    """What is kept of one model's forecast from one origin.

    Attributes:
        origin: how many windows were known.
        scores: how good it was, before any calibration.
        probability: float32 (H, S'), of evenly spaced chunks seen, at most 200,000 values.
        accessed: bool (H, S'), what happened to them.
    """

    origin: int
    scores: Scores
    probability: NDArray[np.float32]
    accessed: NDArray[np.bool_]


@dataclass(frozen=True)
class HeldOut:
    """A model's forecast from an origin in full, and what happened.

    Attributes:
        expected: shape (C,), draws in all held-out windows.
        actual: shape (C,), the same as it came.
        probability: shape (H, S), of the chunks that had been read by then.
        accessed: shape (H, S), whether there was a draw.
    """

    expected: NDArray[np.float64]
    actual: NDArray[np.float64]
    probability: NDArray[np.float32 | np.float64]
    accessed: NDArray[np.bool_]


def outcome_at(history: History, origin: int, horizon: int) -> Outcome:
    """Divide a history at an origin.

    Args:
        history: at least `origin + horizon` windows.
        origin: how many windows are known, at least 1.
        horizon: H, how many after them are of interest.
    """
    last, future = history.counts[origin - 1], history.counts[origin : origin + horizon]
    seen: NDArray[np.bool_] = history.counts[:origin].max(axis=0) > 0
    if not seen.any():
        seen = np.ones_like(seen)
    accessed = future[:, seen] > 0
    return Outcome(origin, last, seen, accessed, future.sum(axis=0), brier((last[seen] > 0).astype(float), accessed))


def try_forecast(forecast: Forecast, outcome: Outcome, cache_fraction: float) -> tuple[Trial, HeldOut]:
    """Score a forecast by what came, and return it in full beside what is kept of it.

    Args:
        forecast: of H windows, from the outcome's origin.
        outcome: what came.
        cache_fraction: share of the chunks that fit into the cache, in (0, 1].
    """
    expected, probability = forecast.expected.sum(axis=0), forecast.probability[:, outcome.seen]
    ranked, came = expected[outcome.seen], outcome.actual[outcome.seen]
    accessed = outcome.accessed
    error = brier(probability, accessed)
    scores = Scores(
        hit_mass(expected, outcome.actual, cache_fraction),
        ndcg_at(ranked, came, cache_fraction),
        precision_at(ranked, came, cache_fraction),
        error,
        brier_skill(error, outcome.reference),
        calibration_error(probability, accessed),
        log_loss(probability, accessed),
    )
    said, kept = probability.astype(np.float32), _thin(accessed.shape)
    trial = Trial(outcome.origin, scores, said[:, kept].copy(), accessed[:, kept].copy())
    return trial, HeldOut(expected, outcome.actual, said, accessed)


def _thin(shape: tuple[int, ...]) -> slice:
    """Return evenly spaced columns of an array (H, S), so many that at most 200,000 values are left."""
    return slice(None, None, max(1, -(-shape[0] * shape[1] // _MOST_POINTS)))


# -- baselines -----------------------------------------------------------------------------------------


def try_last(outcome: Outcome, cache_fraction: float) -> Trial:
    """Score the baseline `LAST`, which ranks by the last window's counts."""
    return _try_last(outcome, (outcome.last > 0).astype(np.float64), LAST, cache_fraction)


def try_last_platt(outcome: Outcome, earlier: Sequence[Outcome], cache_fraction: float) -> Trial | None:
    """Score the baseline `LAST_PLATT`.

    Args:
        outcome: of the origin in question.
        earlier: of older origins, oldest first; the newest three are fitted on.
        cache_fraction: see `try_forecast`.

    Returns:
        None if the older origins give no curve: there are none, or what had been read last was read less than the rest.
    """
    pool = [(o.last[o.seen] > 0, o.accessed) for o in earlier[-POOL:]]
    said = [np.tile(last[_thin(came.shape)].astype(np.float32), len(came)) for last, came in pool]
    came = [came[:, _thin(came.shape)].ravel() for _, came in pool]
    curve = fit_platt(np.concatenate(said), np.concatenate(came)) if pool else None
    if curve is None:
        return None
    return _try_last(outcome, curve.apply((outcome.last > 0).astype(np.float64)), LAST_PLATT, cache_fraction)


def _try_last(outcome: Outcome, probability: NDArray[np.float64], name: str, cache_fraction: float) -> Trial:
    """Score a forecast in which every window is ranked like the last one."""
    horizon = len(outcome.accessed)
    expected, probability = (np.tile(row, (horizon, 1)) for row in (outcome.last, probability))
    return try_forecast(Forecast(expected, probability, expected, expected, name), outcome, cache_fraction)[0]
