"""What caches that do not know the future do on a trace of chunks: hits per touch, beside those of Belady's MIN.

The policies of other loaders are rebuilt from their sources. They cache whole shards there, and here, in their favour,
chunks, one for one with ours.
"""

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

LITDATA_WINDOW = 32
"""Chunks that LitData 0.2.76 downloads ahead at most: what `adaptive_pre_download` makes of any shard below 96 MB."""


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
    return _evict_first(chunks, nbytes, capacity, renew=True)


def fifo(chunks: NDArray[np.int32], nbytes: NDArray[np.int64], capacity: int) -> NDArray[np.bool_]:
    """Return the hits of a cache that evicts the chunk it fetched first, however often that was used since.

    So does WebDataset 1.0 with its files: `LRUCleanup` sorts by `os.path.getctime`. It looks at most every 30 s, and
    goes beyond its limit meanwhile; here the limit holds. Arguments are those of `lru`.
    """
    return _evict_first(chunks, nbytes, capacity, renew=False)


def _evict_first(
    chunks: NDArray[np.int32], nbytes: NDArray[np.int64], capacity: int, *, renew: bool
) -> NDArray[np.bool_]:
    hit = np.zeros(len(chunks), np.bool_)
    held: OrderedDict[int, int] = OrderedDict()
    free = capacity
    sizes = nbytes.tolist()
    for touch, chunk in enumerate(chunks.tolist()):
        if chunk in held:
            hit[touch] = True
            if renew:
                held.move_to_end(chunk)
            continue
        size = sizes[chunk]
        if size > capacity:
            continue
        while free < size:
            free += held.popitem(last=False)[1]
        held[chunk] = size
        free -= size
    return hit


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
    uses = np.bincount(chunks, minlength=len(nbytes))
    ranked = np.argsort(-uses / nbytes, kind="stable")
    pinned = np.zeros(len(nbytes), np.bool_)
    pinned[ranked[np.cumsum(nbytes[ranked]) <= capacity]] = True
    hit = pinned[chunks]
    hit[np.unique(chunks, return_index=True)[1]] = False
    return hit
