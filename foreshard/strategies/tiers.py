"""Heat tiers: rows whose expected draws are alike, hottest tier first."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

_EDGES: Final = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)
"""Row shares at which a tier ends; finer at the hot end, where memory decides what stays."""

_STEPS_PER_OCTAVE: Final = 8.0
"""Heats within about 9 % of each other count as equal, so that noise makes no tier."""

_COLDEST: Final = -(2**15)


def heat_tiers(heat: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return the tier of every row: 0 is the hottest, codes are dense.

    Tiers end at fixed quantiles of heat, rounded to an eighth of a power of two. Equal heats always share a tier, so
    uniform heat gives one tier; rows without any heat are a tier of their own.

    Args:
        heat: shape (m,), at least 0.

    Returns:
        Shape (m,), int32.
    """
    if not len(heat):
        return np.zeros(0, np.int32)
    level = np.full(len(heat), _COLDEST, np.int32)
    warm = heat > 0
    level[warm] = np.rint(np.log2(heat[warm].astype(np.float64)) * _STEPS_PER_OCTAVE).astype(np.int32)
    ranked = np.sort(level)[::-1]
    floors = ranked[[max(0, int(edge * len(heat)) - 1) for edge in _EDGES]]
    # A tier holds the levels at or above its floor; the last one takes all other warm rows, and one more the cold.
    tier = np.searchsorted(-floors, -level, side="left").astype(np.int32)
    tier[~warm] = len(_EDGES) + 1
    return np.unique(tier, return_inverse=True)[1].astype(np.int32)
