"""Which rows stand for a dataset: samples that keep the row order, since order decides what range partitions do."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.errors import ConfigError
from foreshard.seeding import derive_seed, row_keys, uniforms

HOLDOUT_DIVISOR: Final = 3
"""One row in three is held out, so a trial has half as many hold-out rows as training rows."""


def spread_sample(n: int, rows: int, seed: bytes) -> NDArray[np.int64]:
    """Return at most `rows` positions of 0..n-1, ascending, one drawn at random from each of `rows` equal stretches.

    Unlike every k-th row it cannot fall into step with a period of the data, and it costs O(rows), not O(n).

    Raises:
        ConfigError: `rows` is below 1.
    """
    if rows < 1:
        raise ConfigError(f"a sample of {rows} rows was asked for; it needs at least 1")
    if n <= rows:
        return np.arange(n, dtype=np.int64)
    edges = np.arange(rows + 1, dtype=np.int64) * n // rows
    draws = uniforms(seed, np.arange(rows, dtype=np.int64))
    return edges[:-1] + (draws * np.diff(edges)).astype(np.int64)


def split_holdout(n: int, seed: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split 0..n-1 at random into training and hold-out positions, both ascending; the hold-out is n // 3 rows."""
    order = np.argsort(row_keys(seed, np.arange(n, dtype=np.int64)), kind="stable")
    held = n // HOLDOUT_DIVISOR
    return np.sort(order[held:]), np.sort(order[:held])


def learner_seed(**fields: int | str | bytes) -> int:
    """Return a seed below 2**32 for a learner that takes an integer."""
    return int.from_bytes(derive_seed(purpose="learner", **fields)[:4], "little")
