"""Chunks into shard objects, cut where contents say so, so that a change leaves other shards as they are."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

_SHARDS_PER_NODE: Final = 32
_SMALLEST: Final = 256 * 1024
_LARGEST: Final = 64 * 1024 * 1024


def shard_target(total_bytes: float, nodes: int) -> int:
    """Return the size to aim at: about 32 shards a node, within 256 KiB and 64 MiB."""
    return int(min(max(total_bytes / (nodes * _SHARDS_PER_NODE), _SMALLEST), _LARGEST))


def pack_shards(
    node: NDArray[np.int32],
    split: NDArray[np.uint8],
    nbytes: NDArray[np.float64],
    content_ids: list[bytes],
    target: int,
) -> NDArray[np.int32]:
    """Return the shard of every chunk.

    Chunks of one node and split follow each other in chunk order. A shard ends after a chunk whose content id falls
    below a threshold (content-defined chunking, as in LBFS, SOSP 2001), so chunks that come or go shift the ends of
    their neighbours only; longer stretches are cut at about `target` bytes.

    Args:
        node: shape (C,).
        split: shape (C,).
        nbytes: shape (C,) bytes of each chunk.
        content_ids: C names of 16 bytes.
        target: bytes a shard should not exceed by more than a chunk.

    Returns:
        Shape (C,), int32 from 0, in order of (node, split, chunk).
    """
    chunks = len(node)
    if not chunks:
        return np.zeros(0, np.int32)
    order = np.lexsort((np.arange(chunks), split, node))
    size = nbytes[order]
    draw = np.frombuffer(b"".join(content_ids), "<u8")[::2][order] >> np.uint64(11)
    ends = draw.astype(np.float64) * 2.0**-53 < size / (2 * target)
    starts = np.ones(chunks, np.bool_)
    starts[1:] = ends[:-1] | (np.diff(node[order]) != 0) | (np.diff(split[order].astype(np.int16)) != 0)
    run = np.cumsum(starts) - 1
    before = np.cumsum(size) - size
    piece = ((before - before[starts][run]) // target).astype(np.int64)
    starts[1:] |= np.diff(piece) != 0
    shard = np.empty(chunks, np.int32)
    shard[order] = np.cumsum(starts) - 1
    return shard


def deal_by_memory(chunks: int, memory: NDArray[np.float64]) -> NDArray[np.int32]:
    """Return a node for each of `chunks` chunks: evenly interleaved, in proportion to the nodes' memory.

    Args:
        chunks: how many.
        memory: shape (K,) bytes.

    Returns:
        Shape (chunks,), int32; a function of the two alone, so validation and test chunks stay where they are.
    """
    ideal = chunks * memory / memory.sum()
    counts = np.floor(ideal).astype(np.int64)
    short = np.argsort(counts - ideal, kind="stable")[: chunks - int(counts.sum())]
    counts[short] += 1
    node = np.repeat(np.arange(len(memory)), counts)
    place = (np.arange(chunks) - np.repeat(np.cumsum(counts) - counts, counts) + 0.5) / np.repeat(counts, counts)
    return node[np.lexsort((node, place))].astype(np.int32)
