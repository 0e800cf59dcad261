"""Groups of chunks that rise and fall together, so that one model serves many chunks."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.access.history import History

MAX_GROUPS: Final = 64
CHUNKS_PER_GROUP: Final = 32
_ROUNDS: Final = 10
_PRIOR_DRAWS: Final = 8.0


def group_count(chunks: int, windows: int) -> int:
    """Return how many groups the chunks are divided into: one per 32, at most 64, and no more than there are windows.

    A short history does not tell many groups apart, and every group costs a fit.
    """
    return max(1, min(MAX_GROUPS, chunks // CHUNKS_PER_GROUP, windows))


def group_chunks(history: History, groups: int) -> NDArray[np.int64]:
    """Return each chunk's group, shape (C,), by k-means (Lloyd 1982) on the shape of its history, not on its size.

    The shape is the share of each phase and the share of the newer half of the windows, both drawn towards the
    overall one where a chunk has few draws. The start is spread evenly over the chunks ordered by trend, so nothing is
    random. A group may stay empty.
    """
    points = _shapes(history)
    order = np.argsort(points[:, -1], kind="stable")
    start = order[(np.arange(groups) * 2 + 1) * len(order) // (2 * groups)]
    centres = points[start]
    group = np.zeros(len(points), np.int64)
    for _ in range(_ROUNDS):
        distance = (centres**2).sum(1) - 2 * points @ centres.T
        found = distance.argmin(1)
        if np.array_equal(found, group):
            break
        group = found
        sizes = np.bincount(group, minlength=groups)
        sums = np.stack([np.bincount(group, weights=column, minlength=groups) for column in points.T], axis=1)
        centres = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centres)
    return group


def _shapes(history: History) -> NDArray[np.float64]:
    """Return shape (C, P + 1): share of each phase, and of the newer half of the windows."""
    counts = history.counts
    phases = np.stack([counts[history.phases == p].sum(0) for p in range(history.phases_per_epoch)], axis=1)
    newer = counts[history.windows // 2 :].sum(0)[:, None]
    total = counts.sum(0)[:, None]
    parts = np.concatenate([phases, newer], axis=1)
    mean = parts.sum(0) / max(float(total.sum()), 1.0)
    return (parts + _PRIOR_DRAWS * mean) / (total + _PRIOR_DRAWS)
