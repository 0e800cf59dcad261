"""Interleaving of strata, so that every stretch of the packing order has the mix of the whole."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.seeding import derive_seed, row_keys, uniforms
from foreshard.strategies.base import StrategyInput
from foreshard.strategies.clusters import cluster_codes

_CLUSTERS: Final = 4
_MIN_ROWS_PER_STRATUM: Final = 32


def strata_codes(data: StrategyInput) -> NDArray[np.int32]:
    """Return the stratum of every row: its label, crossed with a cluster of features where rows suffice.

    Label x cluster keeps nodes more alike than label alone (research/optimise.md §1.2), but strata of a few rows are
    only noise.

    Returns:
        Shape (m,), int32 codes from 0.
    """
    labels = np.unique(data.labels, return_inverse=True)[1].astype(np.int32)
    classes = int(labels.max()) + 1 if data.rows else 0
    if data.rows < classes * _CLUSTERS * _MIN_ROWS_PER_STRATUM:
        return labels
    seed = derive_seed(purpose="strata", seed=data.seed)
    return labels * np.int32(_CLUSTERS) + cluster_codes(data.features, data.sample_ids, _CLUSTERS, seed)


def interleaved(
    sample_ids: NDArray[np.int64], strata: NDArray[np.int32], seed: bytes, tiers: NDArray[np.int32] | None = None
) -> NDArray[np.int64]:
    """Return an order in which every stretch holds each stratum in proportion (systematic sampling).

    The j-th of a stratum's s rows, in keyed random order, is placed at (j + u) / s with one random u per stratum.

    Args:
        sample_ids: shape (m,).
        strata: shape (m,) codes.
        seed: 16 bytes.
        tiers: shape (m,); if given, tiers follow each other and each is interleaved by itself.

    Returns:
        Shape (m,), int64 permutation.
    """
    rows = len(sample_ids)
    if not rows:
        return np.zeros(0, np.int64)
    outer = np.zeros(rows, np.int32) if tiers is None else tiers
    keys = row_keys(seed, sample_ids)
    cell = np.unique(outer.astype(np.int64) * (int(strata.max()) + 1) + strata, return_inverse=True)[1]
    by_cell = np.lexsort((sample_ids, keys, cell))
    sizes = np.bincount(cell)
    rank = np.empty(rows, np.int64)
    rank[by_cell] = np.arange(rows) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    offset = uniforms(derive_seed(purpose="stratum offset", seed=seed), np.arange(len(sizes), dtype=np.int64))
    place = (rank + offset[cell]) / sizes[cell]
    return np.lexsort((sample_ids, keys, place, outer)).astype(np.int64)
