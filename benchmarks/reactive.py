"""What caches make of a trace of chunks: those that do not know the future, and MIN where it sees one epoch only.

The policies of other loaders are rebuilt from their sources. They cache whole shards there, and here, in their favour,
chunks, one for one with ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreshard.loader.order import Order
from foreshard.shards.manifest import Manifest
from foreshard.simulate.belady import plan_residency
from foreshard.simulate.caches import Lru
from foreshard.simulate.pinned import Pinned
from foreshard.simulate.shadow import rank_by_worth

LITDATA_WINDOW = 32
"""Chunks that LitData 0.2.76 downloads ahead at most: what `adaptive_pre_download` makes of any shard below 96 MB."""


# -- the trace -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counted:
    """What was fetched in the epochs that count.

    Attributes:
        touches: uses of a chunk by a batch.
        hits: of those, without a fetch.
        nbytes: bytes fetched.
    """

    touches: int
    hits: int
    nbytes: int

    @property
    def hit_rate(self) -> float:
        """Hits over touches."""
        return self.hits / self.touches


def trace_of(order: Order, manifest: Manifest, epoch: int, batch: int) -> NDArray[np.int32]:
    """Return the chunks that an epoch's batches use, each once a batch, by batch and then by number; shape (m,).

    It is worked out here once more, from the order and the layout's index alone, to check the loader by.
    """
    length = order.length(epoch)
    chunks = manifest.chunk_of[order.ids(epoch, 0, length)]
    step = np.arange(length, dtype=np.int64) // batch
    keys = np.unique(step * len(manifest) + chunks)
    return (keys % len(manifest)).astype(np.int32)


def count(trace: Sequence[NDArray[np.int32]], hit: NDArray[np.bool_], nbytes: NDArray[np.int64]) -> Counted:
    """Sum the hits on a trace up over the epochs that count: all but the first.

    Args:
        trace: chunks touched, by epoch.
        hit: for the touches of all these epochs, and maybe of later ones.
        nbytes: size of every chunk, shape (C,).
    """
    first, last = len(trace[0]), sum(map(len, trace))
    chunks, hits = np.concatenate(trace)[first:], hit[first:last]
    return Counted(last - first, int(np.count_nonzero(hits)), int(nbytes[chunks[~hits]].sum()))


# -- the policies --------------------------------------------------------------------------------------


def min_by_epoch(trace: Sequence[NDArray[np.int32]], nbytes: NDArray[np.int64], capacity: int) -> NDArray[np.bool_]:
    """Return the hits of MIN where an epoch's end hides what follows: there, one chunk is as good as another.

    Args:
        trace: chunks touched, by epoch.
        nbytes: size of every chunk, shape (C,).
        capacity: bytes.

    Returns:
        Of the touches of all epochs.
    """
    resident: frozenset[int] = frozenset()
    hits: list[NDArray[np.bool_]] = []
    for chunks in trace:
        # As if every chunk came once more, by number.
        plan = plan_residency(
            np.append(chunks, np.arange(len(nbytes), dtype=np.int32)), nbytes, capacity, resident=resident
        )
        touched, last = np.unique(chunks[::-1], return_index=True)
        stay = touched[plan.keep[len(chunks) - 1 - last]]
        resident = frozenset(stay.tolist()) | (plan.kept_at_start - frozenset(touched.tolist()))
        hits.append(plan.hit[: len(chunks)])
    return np.concatenate(hits)


def lru(chunks: NDArray[np.int32], nbytes: NDArray[np.int64], capacity: int) -> NDArray[np.bool_]:
    """Return the hits of a cache that evicts the least recently used chunk before it fetches another.

    So does MosaicML Streaming 0.13 with its shards: `StreamingDataset._evict_coldest_shard`.

    Args:
        chunks: shape (m,), the trace.
        nbytes: size of every chunk, shape (C,).
        capacity: bytes.

    Returns:
        Shape (m,).
    """
    return Lru(nbytes, capacity).touch(chunks)


def fifo(chunks: NDArray[np.int32], nbytes: NDArray[np.int64], capacity: int) -> NDArray[np.bool_]:
    """Return the hits of a cache that evicts the chunk it fetched first, however often that was used since.

    So does WebDataset 1.0 with its files: `LRUCleanup` sorts by `os.path.getctime`. It looks at most every 30 s, and
    goes beyond its limit meanwhile; here the limit holds. Arguments are those of `lru`.
    """
    return Lru(nbytes, capacity, renew=False).touch(chunks)


def delete_after_use(chunks: NDArray[np.int32], window: int = LITDATA_WINDOW) -> NDArray[np.bool_]:
    """Return the hits of a loader that deletes a chunk once it is read, unless it is among the next that it wants.

    So does LitData 0.2.76 where the dataset is larger than its `max_cache_size`: `PrepareChunksThread` deletes what was
    read as soon as it has downloaded its window ahead, whatever else would fit.

    Args:
        chunks: shape (m,), the trace.
        window: touches that are known ahead.
    """
    order = np.argsort(chunks, kind="stable")
    same = chunks[order[1:]] == chunks[order[:-1]]
    hit = np.zeros(len(chunks), np.bool_)
    hit[order[1:]] = same & (order[1:] - order[:-1] <= window)
    return hit


def static_top(chunks: NDArray[np.int32], nbytes: NDArray[np.int64], capacity: int) -> NDArray[np.bool_]:
    """Return the hits of a cache that pins, from their first use on, the chunks with most uses of the whole trace.

    It is what a perfect forecast of frequencies is worth. Arguments are those of `lru`.
    """
    uses = np.bincount(chunks, minlength=len(nbytes)).astype(np.float64)
    cache = Pinned(nbytes, capacity, None)
    cache.pin(rank_by_worth(uses, nbytes))
    hit = cache.touch(chunks)
    hit[np.unique(chunks, return_index=True)[1]] = False
    return hit
