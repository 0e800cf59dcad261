"""Reading chunks of an open layout: one for the prefetcher, or a whole split in sample-id order."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.arguments import column_names
from foreshard.direct import DirectReads
from foreshard.errors import ConfigError, CorruptDataError
from foreshard.loader.corrupt import CorruptChunkError
from foreshard.prefetch.arena import Payload
from foreshard.prefetch.gather import Gatherer
from foreshard.prefetch.landing import Direct, Fetch
from foreshard.shards.manifest import Manifest
from foreshard.shards.refetch import refetch
from foreshard.shards.repository import Repository
from foreshard.splits import split_code
from foreshard.storage import ObjectStore

SAMPLE_ID: Final = "sample_id"


def wanted_columns(manifest: Manifest, columns: Sequence[str] | None) -> list[str]:
    """Return the columns to hand out, `sample_id` last.

    Raises:
        ConfigError: the layout has no such column, or one is named twice.
    """
    names, columns = list(manifest.schema.names), column_names(columns)
    if columns is None:
        return names
    for column in columns:
        if column not in names:
            raise ConfigError(f"column {column!r} is not in layout {manifest.ref}; it has {', '.join(names)}")
    if len(set(columns)) != len(columns):
        raise ConfigError(f"columns {', '.join(columns)} name one twice; name each once")
    return [*(c for c in columns if c != SAMPLE_ID), SAMPLE_ID]


def make_gatherer(manifest: Manifest, columns: Sequence[str]) -> Gatherer:
    """Return what takes these columns' rows from chunks in memory."""
    return Gatherer(manifest.physical, manifest.schema, columns, manifest.dictionaries)


def chunk_locator(manifest: Manifest, gatherer: Gatherer) -> Callable[[int, memoryview], Payload]:
    """Return a function that verifies a chunk's bytes, wherever they come from, and finds its buffers in them.

    It raises `CorruptChunkError`.
    """

    def locate(chunk: int, raw: memoryview) -> Payload:
        try:
            return gatherer.locate(raw, manifest.decode_physical(chunk, raw))
        except CorruptDataError as error:
            raise CorruptChunkError(chunk, str(error)) from error

    return locate


def chunk_fetcher(store: ObjectStore, manifest: Manifest, gatherer: Gatherer, *, again: bool = True) -> Fetch:
    """Return a function that reads chunks which follow each other in a shard, in one request, each verified.

    Args:
        store: holds the shards.
        manifest: the layout.
        gatherer: knows the columns wanted.
        again: read what does not verify again by itself, as a link may have damaged it, before `CorruptChunkError`.
    """
    locate = chunk_locator(manifest, gatherer)

    def one(chunk: int) -> Payload:
        key, start, end = manifest.shard_key(chunk), int(manifest.starts[chunk]), int(manifest.ends[chunk])

        def read() -> Payload:
            return locate(chunk, store.get_range(key, start, end))

        return refetch(store, read) if again else read()

    def fetch(chunks: Sequence[int]) -> list[Payload]:
        if len(chunks) == 1:
            return [one(chunks[0])]
        starts, ends = manifest.starts[list(chunks)].tolist(), manifest.ends[list(chunks)].tolist()
        whole = store.get_range(manifest.shard_key(chunks[0]), starts[0], ends[-1])
        found: list[Payload] = []
        for chunk, start, end in zip(chunks, starts, ends, strict=True):
            try:
                found.append(locate(chunk, whole[start - starts[0] : end - starts[0]]))
            except CorruptDataError:
                if not again:
                    raise
                found.append(one(chunk))
        return found

    return fetch


def chunk_reader(reads: DirectReads, manifest: Manifest, gatherer: Gatherer) -> Direct:
    """Return a function that reads chunks which follow each other in a shard to where they shall lie, each verified.

    Args:
        reads: reads the store's objects straight into memory.
        manifest: the layout.
        gatherer: knows the columns wanted.
    """
    locate = chunk_locator(manifest, gatherer)

    def read(chunks: Sequence[int], rooms: Sequence[memoryview]) -> list[Payload] | None:
        first = chunks[0]
        if not reads.read(manifest.shard_key(first), int(manifest.starts[first]), rooms):
            return None
        return [locate(chunk, room) for chunk, room in zip(chunks, rooms, strict=True)]

    return read


def following_chunks(manifest: Manifest) -> NDArray[np.int32]:
    """Return for every chunk the one whose bytes follow in its shard; int32, shape (C,), -1 for none."""
    order = np.lexsort((manifest.starts, manifest.shard_of))
    near, far = order[:-1], order[1:]
    adjacent = (manifest.shard_of[near] == manifest.shard_of[far]) & (manifest.ends[near] == manifest.starts[far])
    following = np.full(len(manifest), -1, np.int32)
    following[near[adjacent]] = far[adjacent]
    return following


def read_split(
    repository: Repository, manifest: Manifest, split: str, columns: Sequence[str] | None = None
) -> pa.Table:
    """Read all rows of a split, by ascending sample id: for validation and tests.

    Args:
        repository: where the layout lies.
        manifest: the open layout.
        split: `train`, `validation` or `test`.
        columns: as in `LoaderOptions`.
    """
    names = wanted_columns(manifest, columns)
    chunks = np.flatnonzero(manifest.splits == split_code(split)).astype(np.int32)
    batches = [batch.select(names) for batch in repository.read_chunks(manifest, chunks)]
    if not batches:
        return pa.schema([manifest.schema.field(name) for name in names]).empty_table()
    return pa.Table.from_batches(batches).sort_by(SAMPLE_ID).combine_chunks()
