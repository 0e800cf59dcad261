"""Strategies that look at ids alone: contiguous, hash, seeded shuffle."""

from typing import Final

import numpy as np

from foreshard.seeding import derive_seed, row_keys
from foreshard.strategies.base import Arrangement, StrategyInput

_BUCKET_BITS: Final = 8


def contiguous(data: StrategyInput) -> Arrangement:
    """Pack rows in id order, neighbours on one node: the layout most sources come in."""
    order = np.arange(data.rows, dtype=np.int64)
    return Arrangement(order, np.zeros(data.rows, np.int32), "contiguous")


def hashed(data: StrategyInput) -> Arrangement:
    """Pack rows by 256 hash buckets of their id, in id order inside a bucket; the same for every seed."""
    bucket = row_keys(derive_seed(purpose="hash bucket"), data.sample_ids) >> np.uint64(64 - _BUCKET_BITS)
    order = np.argsort(bucket, kind="stable").astype(np.int64)
    return Arrangement(order, np.zeros(data.rows, np.int32), "round_robin")


def seeded_shuffle(data: StrategyInput) -> Arrangement:
    """Pack rows in a random order keyed by the seed and the row's id."""
    keys = row_keys(derive_seed(purpose="seeded shuffle", seed=data.seed), data.sample_ids)
    order = np.argsort(keys, kind="stable").astype(np.int64)
    return Arrangement(order, np.zeros(data.rows, np.int32), "round_robin")
