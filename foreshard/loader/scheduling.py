"""Turning an order into what one reader touches in an epoch, and what of it stays in memory when."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreshard.errors import ConfigError
from foreshard.loader.dealing import deal, epoch_steps
from foreshard.loader.options import LoaderOptions
from foreshard.loader.order import Order
from foreshard.prefetch.region import Region
from foreshard.prefetch.schedule import Touches, find_touches, uses_beyond
from foreshard.shards.manifest import Manifest
from foreshard.simulate.belady import plan_residency
from foreshard.splits import SPLITS


def schedule_epoch(
    order: Order, manifest: Manifest, options: LoaderOptions, *, split: int, epoch: int, first: int
) -> Touches:
    """Return what one reader touches from a step of an epoch to the epoch's end.

    Args:
        order: which samples, in which sequence.
        manifest: where they lie.
        options: batch size, dealing and place of the reader.
        split: code of the split that the order may draw from.
        epoch: the epoch, from 1.
        first: the first step wanted.

    Raises:
        ConfigError: the order gives an id that the dataset does not have, or one of another split.
    """
    place, batch, length = options.place, options.global_batch, order.length(epoch)
    steps = epoch_steps(length, batch, options.remainder)
    numbers = np.arange(first, steps, dtype=np.int32)
    numbers = numbers[numbers % place.workers == place.worker]
    high = min(steps * batch, length)
    low = min(first * batch, high)
    ids, places = order.ids(epoch, low, high), np.arange(low, high, dtype=np.int64)
    if options.remainder == "pad" and steps * batch > length:
        missing = steps * batch - length
        ids = np.concatenate([ids, np.resize(order.ids(epoch, 0, min(missing, length)), missing)])
        places = np.arange(low, steps * batch, dtype=np.int64)
    _check_ids(ids, manifest, split, order.name)
    step_of, position = places // batch, places % batch
    owners = manifest.nodes[manifest.chunk_of[ids]] if options.dealing == "owner" else None
    mine = deal(position, owners, batch, len(manifest.header.nodes), place)
    mine &= step_of % place.workers == place.worker
    index = np.searchsorted(numbers, step_of[mine]).astype(np.int64)
    return find_touches(numbers, index, ids[mine], position[mine], manifest.chunk_of, manifest.row_of)


def _check_ids(ids: NDArray[np.int64], manifest: Manifest, split: int, order: str) -> None:
    unknown = ids[(ids < 0) | (ids >= manifest.header.rows)]
    if len(unknown):
        raise ConfigError(
            f"order {order!r} gives sample id {unknown[0]}, but layout {manifest.ref} has the ids "
            f"0..{manifest.header.rows - 1}; build the order from this dataset's splits"
        )
    splits = manifest.splits[manifest.chunk_of[ids]]
    foreign = splits != split
    if foreign.any():
        raise ConfigError(
            f"order {order!r} gives sample id {ids[foreign][0]} of the split {SPLITS[int(splits[foreign][0])]!r}, but "
            f"the loader reads {SPLITS[split]!r}; build the order from that split's ids or give Loader(split=...)"
        )


@dataclass(frozen=True)
class ResidencyPlan:
    """What a prefetcher and an assembler carry out.

    Attributes:
        keep: bool (m,), whether each touch's chunk stays resident after it.
        kept_at_start: resident chunks that stay.
        misses: int64 (k,), touches whose chunk must be fetched.
        ahead: bytes set aside for fetching ahead.
    """

    keep: NDArray[np.bool_]
    kept_at_start: frozenset[int]
    misses: NDArray[np.int64]
    ahead: int


def plan_epoch(
    touches: Touches,
    nbytes: NDArray[np.int64],
    region: Region,
    *,
    lookahead: float,
    resident: frozenset[int],
    scores: NDArray[np.float64],
) -> ResidencyPlan:
    """Decide by Belady's MIN what stays in memory, with a share of it set aside for fetching ahead.

    Args:
        touches: the schedule.
        nbytes: size of every chunk, shape (C,).
        region: the memory.
        lookahead: share of the memory for fetching ahead.
        resident: chunks in memory or on their way.
        scores: float64 (C,), expected draws of every chunk beyond the schedule.
    """
    # Fetching ahead needs room for the largest chunk at least, or the queue's head could never be reserved.
    cache = max(min(int(region.capacity * (1 - lookahead)), region.capacity - region.bypass), 0)
    later = uses_beyond(scores, len(touches.chunks))
    plan = plan_residency(touches.chunks, nbytes, cache, resident=resident, later=later)
    return ResidencyPlan(plan.keep, plan.kept_at_start, np.flatnonzero(~plan.hit), region.capacity - cache)
