"""Rows that the learned forecasters are trained on: what a chunk looked like at an earlier origin, and what came then.

The targets are the newest windows, at least three and at least one of every phase, each as seen from one up to an epoch
of windows before. All of them lie in the past of the forecast.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.access.history import History
from foreshard.forecast.ewma import Weights
from foreshard.forecast.features import LEAST_DEPTH, View, features, view_of

ROWS: Final = 200_000
"""Most rows that a model is trained on."""

TARGETS: Final = 3
"""Windows that are targets, unless an epoch has more phases."""

LEAST_WINDOWS: Final = 8
"""Windows of history that make a model worth training."""

_MOST_PAIRS: Final = 48
_SEED: Final = 20240229


@dataclass(frozen=True)
class TrainingRows:
    """n rows.

    Attributes:
        columns: float32 (n, F), see `features`.
        level: shape (n,), draws that the moving average expected.
        count: shape (n,), draws that came.
        view: what the columns mean.
    """

    columns: NDArray[np.float32]
    level: NDArray[np.float64]
    count: NDArray[np.float64]
    view: View


def training_rows(history: History, smoothing: Weights, rows: int = ROWS) -> TrainingRows:
    """Draw training rows, the same ones for the same history.

    Chunks that had not been read by an origin are left out, as they are not forecast either.

    Args:
        history: at least `LEAST_WINDOWS` windows.
        smoothing: the moving average fitted on it.
        rows: how many at most.
    """
    windows, phases = history.windows, history.phases_per_epoch
    seasonal = phases > 1 and windows >= 2 * phases
    depth = max(LEAST_DEPTH, phases if seasonal else 0)
    oldest = max(depth, windows - max(TARGETS, phases))
    # A pair is an origin and a step, and its target is window origin + step - 1.
    pairs = [
        (target - step + 1, step)
        for target in range(oldest, windows)
        for step in range(1, phases + 1)
        if target - step + 1 >= depth
    ]
    pairs = [pairs[place] for place in np.linspace(0, len(pairs) - 1, min(len(pairs), _MOST_PAIRS)).astype(int)]
    view = view_of(history, min(origin for origin, _ in pairs), seasonal=seasonal, smoothing=smoothing)
    draw = np.random.default_rng(_SEED)
    known = np.zeros(history.chunks, np.bool_)
    seen, columns, level, count = 0, [], [], []
    for origin, step in sorted(pairs):
        known |= (history.counts[seen:origin] > 0).any(0)
        seen = origin
        chunks = _some(np.flatnonzero(known), max(1, rows // len(pairs)), draw)
        found, expected = features(history, origin, step, chunks, view)
        columns.append(found)
        level.append(expected)
        count.append(history.counts[origin + step - 1, chunks])
    return TrainingRows(np.concatenate(columns), np.concatenate(level), np.concatenate(count), view)


def _some(chunks: NDArray[np.int64], most: int, draw: np.random.Generator) -> NDArray[np.int64]:
    return chunks if len(chunks) <= most else np.sort(draw.choice(chunks, most, replace=False))
