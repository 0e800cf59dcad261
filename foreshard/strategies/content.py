"""Strategies that look at what rows hold or how often they are drawn: stratified, clustered, hotness."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.seeding import derive_seed
from foreshard.strategies.base import Arrangement, Dealing, StrategyInput
from foreshard.strategies.clusters import cluster_codes
from foreshard.strategies.strata import interleaved, strata_codes
from foreshard.strategies.tiers import heat_tiers

_CLUSTERS: Final = 16


def stratified(data: StrategyInput) -> Arrangement:
    """Give every chunk the whole split's mix of labels (and of feature clusters, where rows suffice)."""
    order = interleaved(data.sample_ids, strata_codes(data), derive_seed(purpose="stratified", seed=data.seed))
    return Arrangement(order, np.zeros(data.rows, np.int32), "round_robin")


def clustered(data: StrategyInput) -> Arrangement:
    """Keep clusters of similar rows whole: best locality for readers of one kind, worst consistency.

    Without features, rows are clustered by label.
    """
    if data.features.shape[1]:
        seed = derive_seed(purpose="clustered", seed=data.seed)
        codes = cluster_codes(data.features, data.sample_ids, _CLUSTERS, seed)
    else:
        codes = data.labels
    return _grouped(np.argsort(codes, kind="stable").astype(np.int64), codes, "contiguous")


def hotness(data: StrategyInput) -> Arrangement:
    """Bring rows of similar heat together, hottest first, in id order inside a tier."""
    tiers = heat_tiers(data.heat)
    return _grouped(np.argsort(tiers, kind="stable").astype(np.int64), tiers, "round_robin")


def stratified_hotness(data: StrategyInput) -> Arrangement:
    """Bring rows of similar heat together, and give every chunk its tier's mix of labels."""
    tiers = heat_tiers(data.heat)
    seed = derive_seed(purpose="stratified hotness", seed=data.seed)
    return _grouped(interleaved(data.sample_ids, strata_codes(data), seed, tiers), tiers, "round_robin")


def _grouped(order: NDArray[np.int64], codes: NDArray[np.int32], dealing: Dealing) -> Arrangement:
    dense = np.unique(codes[order], return_inverse=True)[1].astype(np.int32)
    return Arrangement(order, dense, dealing)
