"""The exact future as a forecast: where a seeded sampler's order is known, nothing is estimated.

`Order.ids` of `foreshard.loader` gives the sample ids of any epoch to come; `known_touches` turns them into counts per
chunk and phase, and `known_forecast` those into a forecast that the ranking takes like any other.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.errors import ConfigError
from foreshard.forecast.base import Forecast

MODEL: Final = "known-order"
"""What such a forecast calls its model."""


def known_touches(ids: NDArray[np.int64], chunk_of: NDArray[np.int32], chunks: int, phases: int) -> NDArray[np.int64]:
    """Return how many samples of every chunk each phase of an epoch will read, shape (P, C).

    Args:
        ids: shape (m,), sample ids in the order in which the epoch reads them.
        chunk_of: shape (n,), chunk of every sample.
        chunks: C.
        phases: P; an epoch is cut into phases of equal numbers of samples.

    Raises:
        ConfigError: an id without a chunk, a chunk outside 0..C-1, or no phase.
    """
    if phases < 1:
        raise ConfigError(f"{phases} phases per epoch cannot be; give at least 1")
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < len(chunk_of):
        raise ConfigError(
            f"sample ids {ids.min()}..{ids.max()} are read, and chunks are known of samples 0..{len(chunk_of) - 1}; "
            "pass the chunk of every sample of the same snapshot"
        )
    chunk = np.asarray(chunk_of, np.int64)[ids]
    if len(chunk) and not 0 <= int(chunk.min()) <= int(chunk.max()) < chunks:
        raise ConfigError(
            f"samples lie in chunks {chunk.min()}..{chunk.max()}, and there are {chunks}; pass one layout"
        )
    phase = np.arange(len(chunk)) * phases // max(1, len(chunk))
    return np.bincount(phase * chunks + chunk, minlength=phases * chunks).reshape(phases, chunks)


def known_forecast(touches: NDArray[np.int64]) -> Forecast:
    """Return exact counts as a forecast: probabilities of 0 or 1, and bounds that are the counts.

    Args:
        touches: shape (H, C), reads of every chunk in the next H windows.

    Raises:
        ConfigError: not two dimensions, or a negative or infinite count.
    """
    if touches.ndim != 2:  # noqa: PLR2004 -- (H, C)
        raise ConfigError(f"touches of shape {touches.shape} are no forecast; pass (windows, chunks)")
    counts = np.asarray(touches, np.float64)
    if not np.isfinite(counts).all() or (counts < 0).any():
        raise ConfigError("touches hold negative or infinite counts; pass how often every chunk will be read")
    return Forecast(counts, (counts > 0).astype(np.float64), counts.copy(), counts.copy(), MODEL)
