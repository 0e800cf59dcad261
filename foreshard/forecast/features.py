"""What the learned forecasters look at: some 25 numbers about a chunk's past, and its level by the moving average.

The list is that of research/forecast.md §2b, less the position within the last window, which a history doesn't hold.
Everything that looks back looks back no further than the oldest origin of the training rows does, so that a feature
means the same in training and in the forecast.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.access.history import History
from foreshard.forecast.base import draw_rate
from foreshard.forecast.ewma import Weights

LAGS: Final = 8
"""How many of the last windows' counts are features of their own."""

SPANS: Final = (2, 4, 8, 16)
"""Windows over which counts and accesses are averaged."""

DECAYS: Final = (0.05, 0.2, 0.5)
"""Weights of the newest window in three further moving averages."""

LEVEL: Final = 0
"""Column of the moving average's log odds of an access; the learned models start from it."""

LEAST_DEPTH: Final = 4
"""Windows that must be known at the oldest origin that is learned from."""

_LEAST_SHARE: Final = 0.01
"""Of a chunk's mean draws, what its level is at least: that of one not read for long must not vanish, or no model could
raise it again."""

_LITTLE: Final = 0.01
"""Draws added to averages before their logarithm is taken."""

_ODDS_LIMIT: Final = 5.0
"""LightGBM judges the size of a leaf by its Hessian: rows it starts out too sure of could never be split off."""


@dataclass(frozen=True)
class View:
    """How far back features look and whether they tell phases apart; fixed for training and forecast together.

    Attributes:
        depth: windows known at the oldest origin, at least 1.
        phases: windows of an epoch if phases are told apart, 1 otherwise.
        smoothing: the moving average whose weights the levels have.
    """

    depth: int
    phases: int
    smoothing: Weights

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features, in the order of the columns."""
        lags = tuple(f"lag_{lag}" for lag in range(1, min(LAGS, self.depth) + 1))
        spans = tuple(f"{what}_{span}" for span in _spans(self.depth) for what in ("mean", "frequency"))
        decays = tuple(f"average_{decay}" for decay in DECAYS)
        season = ("phase_last", "phase_average", "phase_frequency", "phase_share", "step") if self.phases > 1 else ()
        return ("level_odds", *lags, *spans, *decays, "recency", "age", *season)


def view_of(history: History, depth: int, *, seasonal: bool, smoothing: Weights) -> View:
    """Return how features of a history are made; `smoothing` is the moving average fitted on all of it."""
    return View(depth, history.phases_per_epoch if seasonal else 1, smoothing)


def features(
    history: History, origin: int, step: int, chunks: NDArray[np.int64] | slice, view: View
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the features of chunks as seen from an origin, and their levels.

    Args:
        history: accesses; nothing at or after `origin` is looked at.
        origin: how many windows are known, at least `view.depth`.
        step: which window after the origin is to be forecast, from 1.
        chunks: which chunks; n of them.
        view: how far back to look.

    Returns:
        Shape (n, F), a column per name of `view.names`, none infinite or missing; and shape (n,), draws per window that
        the moving average expects, above 0 for chunks that have been read.
    """
    counts = history.counts[:origin, chunks].astype(np.float32)
    phase_of = history.phases[:origin] % view.phases
    target = (int(history.phases[origin - 1]) + step) % view.phases
    level = levels(counts, history.phases[:origin], (int(history.phases[origin - 1]) + step), chunks, view)
    read = counts > 0
    columns = np.empty((len(view.names), counts.shape[1]), np.float32)
    rows = iter(columns)

    def put(values: NDArray[np.float32] | NDArray[np.float64] | float) -> None:
        next(rows)[:] = values

    put(_level_odds(level, chunks, view))
    for lag in range(1, min(LAGS, view.depth) + 1):
        put(np.log1p(counts[-lag]))
    for span in _spans(view.depth):
        put(np.log1p(counts[-span:].mean(0)))
        put(read[-span:].mean(0, dtype=np.float32))
    averages = [_average(counts, decay) for decay in DECAYS]
    for average in averages:
        put(np.log(average + _LITTLE))
    put(_distance(read[-view.depth :][::-1], view.depth))
    put(view.depth - _distance(read[-view.depth :], view.depth))
    if view.phases > 1:
        same = counts[phase_of == target]
        average = _average(same, DECAYS[1])
        put(np.log1p(same[-1]))
        put(np.log(average + _LITTLE))
        put((same > 0)[-max(1, view.depth // view.phases) :].mean(0, dtype=np.float32))
        put(average / (averages[1] + _LITTLE))
        put(step)
    return np.ascontiguousarray(columns.T), level


def levels(
    counts: NDArray[np.float32], phases: NDArray[np.int16], target: int, chunks: NDArray[np.int64] | slice, view: View
) -> NDArray[np.float64]:
    """Return the moving average of every chunk, shape (n,), with its own weight; that of the phase if there's a season.

    Args:
        counts: shape (t, n), windows known.
        phases: shape (t,), their phases.
        target: phase of the window to be forecast; it may exceed an epoch.
        chunks: which chunks the columns are.
        view: holds the weights and the season.
    """
    season = view.smoothing.season
    same = counts[phases % season == target % season]
    return np.maximum(_average(same, view.smoothing.alpha[chunks]), _LEAST_SHARE * counts.mean(0, dtype=np.float64))


def _average(counts: NDArray[np.float32], alpha: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """The normalised moving average of `ewma.smooth`, shape (n,); 0 without a window."""
    keep = 1.0 - np.asarray(alpha, np.float64)
    total, weight = np.zeros(counts.shape[1]), np.zeros_like(keep)
    for row in counts:
        total *= keep
        total += row
        weight = weight * keep + 1.0
    return total / np.maximum(weight, 1.0)


def _level_odds(level: NDArray[np.float64], chunks: NDArray[np.int64] | slice, view: View) -> NDArray[np.float64]:
    """Log odds of a draw where the number of draws has this mean, kept within what a model can still correct."""
    rate = np.minimum(draw_rate(level, view.smoothing.dispersion[chunks]), _ODDS_LIMIT)
    return np.log(np.maximum(np.expm1(rate), np.exp(-_ODDS_LIMIT)))


def _spans(depth: int) -> tuple[int, ...]:
    """Those spans that all origins can fill."""
    return tuple(span for span in SPANS if span <= depth)


def _distance(read: NDArray[np.bool_], depth: int) -> NDArray[np.float64]:
    """How many windows come before the first one with an access; `depth` without any."""
    return np.where(read.any(0), read.argmax(0), depth).astype(np.float64)
