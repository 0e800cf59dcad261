"""Read chunks of a committed layout, every one verified."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.errors import ConfigError, CorruptDataError, ObjectNotFoundError, StorageError
from foreshard.shards.manifest import Manifest
from foreshard.shards.refetch import refetch
from foreshard.storage import ObjectStore


def read_chunks(
    store: ObjectStore, manifest: Manifest, chunk_ids: Sequence[int] | NDArray[np.integer]
) -> list[pa.RecordBatch]:
    """Return chunks in the given order, one multi-range read per shard.

    Args:
        store: holds the shards.
        manifest: the layout.
        chunk_ids: chunk numbers, in any order, repeats allowed.

    Raises:
        ConfigError: a number outside 0..C-1.
        CorruptDataError: bytes that are not those that were written, or a shard that is missing or too short.
    """
    ids = np.asarray(chunk_ids, np.int64)
    wrong = ids[(ids < 0) | (ids >= len(manifest))]
    if len(wrong):
        raise ConfigError(f"chunk {wrong[0]} is not one of the {len(manifest)} chunks of layout {manifest.ref}")
    distinct = np.unique(ids)
    shards = manifest.shard_of[distinct]
    batches: dict[int, pa.RecordBatch] = {}
    for shard in np.unique(shards).tolist():
        chunks = distinct[shards == shard]
        views = _read_ranges(store, manifest, shard, chunks)
        for chunk, raw in zip(chunks.tolist(), views, strict=True):
            batches[chunk] = _decode(store, manifest, chunk, raw)
    return [batches[chunk] for chunk in ids.tolist()]


def read_chunk(store: ObjectStore, manifest: Manifest, chunk: int) -> pa.RecordBatch:
    """Return one chunk from its byte range alone, verified.

    Raises:
        CorruptDataError: bytes that are not those that were written, however often they are read.
        StorageError: the store failed.
    """
    start, end = int(manifest.starts[chunk]), int(manifest.ends[chunk])
    key = manifest.shard_key(chunk)
    return refetch(store, lambda: manifest.decode(chunk, store.get_range(key, start, end)))


def _decode(store: ObjectStore, manifest: Manifest, chunk: int, raw: memoryview) -> pa.RecordBatch:
    try:
        return manifest.decode(chunk, raw)
    except CorruptDataError:
        if store.local:
            raise
        return read_chunk(store, manifest, chunk)


def _read_ranges(store: ObjectStore, manifest: Manifest, shard: int, chunks: NDArray[np.int64]) -> list[memoryview]:
    ref = manifest.shards[shard]
    ranges = list(zip(manifest.starts[chunks].tolist(), manifest.ends[chunks].tolist(), strict=True))
    what = f"shard {ref.key!r} of layout {manifest.ref} (chunks {chunks.tolist()[:8]})"
    return read_ranges(store, ref.key, ranges, size=ref.size, what=what)


def read_ranges(
    store: ObjectStore, key: str, ranges: Sequence[tuple[int, int]], *, size: int, what: str
) -> list[memoryview]:
    """Return byte ranges of an object that must exist with a known size.

    Args:
        store: holds the object.
        key: its key.
        ranges: [start, end) of each part wanted.
        size: bytes the object must have.
        what: the words for it in error messages.

    Raises:
        CorruptDataError: the object is missing or has another size.
        StorageError: the store failed.
    """
    try:
        return store.get_ranges(key, ranges)
    except ObjectNotFoundError as error:
        raise CorruptDataError(f"{what} is missing; materialise this layout's plan again") from error
    except StorageError as error:
        # Stores answer a range behind the end in different ways; only the object's size tells damage from trouble.
        found = store.head(key)
        if found is None or found.size == size:
            raise
        raise CorruptDataError(
            f"{what} has {found.size} bytes instead of {size}; delete the object and materialise this layout's plan "
            "again"
        ) from error
