"""Seeds, stored order and digests of many chunks at once: numpy over blocks of chunks, no Python loop over rows.

Each function gives, bit for bit, what `generate_seed`, `shuffle_rows` and `order_digest` of `shards.metadata` give for
one chunk; ten million chunks are a normal input.
"""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.errors import PlanError
from foreshard.seeding import Origin, derive_seeds, row_keys_of

_BLOCK_ROWS: Final = 1 << 16
"""Rows sorted at a time (at least one chunk's): keys and order of a block stay in the processor's cache."""


def chunk_seeds(
    content_ids: NDArray[np.uint8], origin_codes: NDArray[np.int16], origins: Sequence[Origin]
) -> NDArray[np.uint8]:
    """Return every chunk's seed.

    Args:
        content_ids: shape (C, 16), BLAKE2b-128 of each chunk's sorted sample ids.
        origin_codes: shape (C,), the position in `origins` of each chunk's origin.
        origins: what first made the chunks.

    Returns:
        Shape (C, 16).

    Raises:
        PlanError: a code names no origin.
    """
    if len(origin_codes) and not 0 <= origin_codes.min() <= origin_codes.max() < len(origins):
        raise PlanError(
            f"chunks have origins {origin_codes.min()}..{origin_codes.max()} and {len(origins)} origins are listed; "
            "give every chunk the position of its origin in the list"
        )
    seeds = np.empty((len(content_ids), 16), np.uint8)
    for code in np.unique(origin_codes).tolist():
        mine = np.flatnonzero(origin_codes == code)
        seeds[mine] = derive_seeds("content_id", content_ids[mine], **origins[code].seed_fields())
    return seeds


def sorted_inside(sample_ids: NDArray[np.int64], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the ids with each chunk's ids ascending; the very array where they are so already, as plans hold them."""
    inside = np.ones(max(len(sample_ids) - 1, 0), np.bool_)
    starts = offsets[(offsets > 0) & (offsets < len(sample_ids))]
    inside[starts - 1] = False  # a step from one chunk into the next
    if not (inside & (sample_ids[1:] < sample_ids[:-1])).any():
        return sample_ids
    chunk = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return sample_ids[np.lexsort((sample_ids, chunk))]


def stored_order(
    sample_ids: NDArray[np.int64], offsets: NDArray[np.int64], seeds: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """Return the sample ids of every chunk in stored order: its seed's permutation of its ascending ids.

    Args:
        sample_ids: shape (n,), chunk after chunk, ascending inside a chunk.
        offsets: shape (C + 1,), where chunks begin and end in `sample_ids`.
        seeds: shape (C, 16).

    Returns:
        Shape (n,).
    """
    stored = np.empty(len(sample_ids), np.int64)
    for first, last in _blocks(offsets):
        bounds = offsets[first : last + 1] - offsets[first]
        rows = np.diff(bounds)
        chunk = np.repeat(np.arange(last - first), rows)
        position = np.arange(bounds[-1]) - np.repeat(bounds[:-1], rows)
        keys = row_keys_of(seeds[first:last], chunk, position)
        part = slice(offsets[first], offsets[last])
        stored[part] = sample_ids[part][_order(chunk, keys, last - first)]
    return stored


def _order(chunk: NDArray[np.int64], keys: NDArray[np.uint64], chunks: int) -> NDArray[np.int64]:
    """Return the order of rows by (chunk, key, position); `chunk` ascends and is below `chunks`."""
    # One sort of 64-bit words (vectorised in numpy) is several times as fast as one by two columns. Where the key's
    # lowest bits, cut off to make room for the chunk, would have decided, it is sorted by both after all.
    bits = np.uint64((chunks - 1).bit_length())
    words = (chunk.astype(np.uint64) << (np.uint64(64) - bits)) | (keys >> bits) if bits else keys
    order = np.argsort(words)
    sorted_words = words[order]
    if (sorted_words[1:] == sorted_words[:-1]).any():
        return np.lexsort((keys, chunk))
    return order


def order_digests(stored: NDArray[np.int64], offsets: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the SHA-256 of each chunk's sample ids (int64, little endian) in stored order.

    Args:
        stored: shape (n,), chunk after chunk.
        offsets: shape (C + 1,).

    Returns:
        Shape (C, 32).
    """
    digests = np.empty((len(offsets) - 1, 32), np.uint8)
    for first, last in _blocks(offsets):
        raw = memoryview(stored[offsets[first] : offsets[last]].astype("<i8").tobytes())
        bounds = ((offsets[first : last + 1] - offsets[first]) * 8).tolist()
        found = b"".join([hashlib.sha256(raw[start:stop]).digest() for start, stop in pairwise(bounds)])
        digests[first:last] = np.frombuffer(found, np.uint8).reshape(-1, 32)
    return digests


def _blocks(offsets: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield runs [first, last) of chunks with at most `_BLOCK_ROWS` rows together; a larger chunk comes alone."""
    first, chunks = 0, len(offsets) - 1
    while first < chunks:
        fits = int(np.searchsorted(offsets, offsets[first] + _BLOCK_ROWS, side="right")) - 1
        # Chunks without rows take no room among the rows, but one each among the chunks.
        last = max(first + 1, min(fits, first + _BLOCK_ROWS, chunks))
        yield first, last
        first = last
