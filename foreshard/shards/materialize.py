"""Execute a plan: read the source, shuffle every chunk by its own seed, encode shards and put them, create-only."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.errors import SourceError
from foreshard.keys import DatasetKeys
from foreshard.shards.arrange import ChunkOrder, check_plan_covers, order_chunks
from foreshard.shards.assemble import PutShard, assemble
from foreshard.shards.codec import SAMPLE_ID, checksum, encode_shard, shard_schema
from foreshard.shards.manifest import Manifest, ShardRef
from foreshard.source import SourceReader
from foreshard.storage import ObjectStore

if TYPE_CHECKING:
    from foreshard.layout.plan import Plan

BATCH_BYTES: Final = 128 * 2**20
"""Bytes of source rows taken at a time (at least one shard's). Memory peaks at about twice this, plus one row group
of the source, plus `WORKERS` encoded shards."""

WORKERS: Final = 4
"""Shards encoded and put at a time."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Materialized:
    """Outcome of a materialisation: the manifest to commit, and what was written or found there already."""

    manifest: Manifest
    written_bytes: int
    reused_bytes: int
    written_shards: int
    reused_shards: int


def materialize(
    store: ObjectStore,
    keys: DatasetKeys,
    plan: "Plan",
    reader: SourceReader,
    *,
    access_counts: NDArray[np.float64] | None = None,
    scores: NDArray[np.float32] | None = None,
    progress: Progress | None = None,
    batch_bytes: int = BATCH_BYTES,
) -> Materialized:
    """Write a plan's shards and return its manifest, not yet committed.

    A shard's bytes follow from (snapshot, plan, algorithm version) alone; its key is their digest. Running this again
    after a crash finds the finished shards in place.

    Args:
        store: where to put the shards.
        keys: names of the dataset's objects.
        plan: what to write.
        reader: the plan's snapshot, all columns.
        access_counts: (C,) draws per chunk, for the manifest; zeros if left out.
        scores: (C,) prediction score per chunk, for the manifest; zeros if left out.
        progress: called from this thread with (finished shards, all shards).
        batch_bytes: see `BATCH_BYTES`.

    Raises:
        PlanError: the plan is for another snapshot, or is no exact cover of it.
        SourceError: the reader leaves columns out, or the source has changed.
        StorageError: the store failed.
    """
    _check_columns(reader)
    check_plan_covers(plan, reader.snapshot)
    chunks = order_chunks(plan)
    members = chunks.of_shard()
    shards: dict[int, PutShard] = {}
    with ThreadPoolExecutor(WORKERS, "materialize") as pool:
        for batch in _batches(members, np.diff(chunks.offsets), _row_bytes(reader), batch_bytes):
            wanted = np.sort(np.concatenate([chunks.ids(c) for s in batch for c in members[s].tolist()]))
            rows = _gather(reader, wanted)
            tasks = {pool.submit(_put_shard, store, keys, rows, wanted, chunks, members[s]): s for s in batch}
            for number, shard in _finished(tasks):
                shards[number] = shard
                if progress:
                    progress(len(shards), len(members))
    in_order = [shards[s] for s in range(len(members))]
    manifest = assemble(
        keys.dataset,
        plan,
        shard_schema(reader.snapshot.schema),
        chunks,
        in_order,
        access_counts=access_counts,
        scores=scores,
    )
    written = [shard.ref.size for shard in in_order if shard.written]
    reused = [shard.ref.size for shard in in_order if not shard.written]
    return Materialized(manifest, sum(written), sum(reused), len(written), len(reused))


# -- reading -------------------------------------------------------------------------------------------


def _check_columns(reader: SourceReader) -> None:
    missing = [name for name in reader.snapshot.schema.names if name not in reader.columns]
    if missing:
        raise SourceError(f"the reader leaves out the columns {', '.join(missing)}; shards hold all columns")


def _row_bytes(reader: SourceReader) -> float:
    """Estimate the bytes of a row in memory from the source's first row group that has any."""
    for _, table in reader.scan():
        if table.num_rows:
            return table.nbytes / table.num_rows + 8
    raise SourceError(f"source {reader.snapshot.url} has no row; there is nothing to materialise")


def _batches(
    members: list[NDArray[np.int64]], rows: NDArray[np.int64], row_bytes: float, limit: int
) -> Iterator[list[int]]:
    """Yield runs of shard numbers whose rows fit `limit` bytes together; a larger shard comes alone."""
    batch: list[int] = []
    held = 0.0
    for number, chunks in enumerate(members):
        size = float(rows[chunks].sum()) * row_bytes
        if batch and held + size > limit:
            yield batch
            batch, held = [], 0.0
        batch.append(number)
        held += size
    if batch:
        yield batch


def _gather(reader: SourceReader, wanted: NDArray[np.int64]) -> pa.Table:
    """Return the rows of ascending sample ids with plain types and their `sample_id`; each row group is read once."""
    schema = shard_schema(reader.snapshot.schema)
    names = reader.snapshot.schema.names
    parts: list[pa.Table] = []
    for start, table in reader.scan():
        low, high = np.searchsorted(wanted, [start, start + table.num_rows])
        if high - low == table.num_rows:
            parts.append(table.select(names))
        elif high > low:
            parts.append(table.select(names).take(wanted[low:high] - start))
    rows = pa.concat_tables([part.cast(schema.remove(len(names))) for part in parts])
    if rows.num_rows != len(wanted):
        raise SourceError(
            f"source {reader.snapshot.url} gave {rows.num_rows} of {len(wanted)} rows; its files have changed since "
            f"snapshot {reader.snapshot.fingerprint}; sources are immutable, add files instead"
        )
    return rows.append_column(schema.field(SAMPLE_ID), pa.chunked_array([pa.array(wanted)])).combine_chunks()


# -- writing -------------------------------------------------------------------------------------------


def _put_shard(
    store: ObjectStore,
    keys: DatasetKeys,
    rows: pa.Table,
    wanted: NDArray[np.int64],
    chunks: ChunkOrder,
    members: NDArray[np.int64],
) -> PutShard:
    batches: list[pa.RecordBatch] = []
    for chunk in members.tolist():
        # `take` gives buffers of the chunk's own, holding nothing else: what `encode_shard` needs to be reproducible.
        taken = rows.take(np.searchsorted(wanted, chunks.ids(chunk))).combine_chunks()
        batches.append(taken.to_batches()[0])
    raw, ranges = encode_shard(batches)
    view = memoryview(raw).cast("B")  # obstore takes unsigned bytes only
    sums = np.array([checksum(view[start:end]) for start, end in ranges], np.uint64)
    digest = hashlib.sha256(view).hexdigest()
    key = keys.shard(digest)
    # The name is the digest of the content, so an object that is there need not be sent again.
    written = not store.exists(key) and store.create(key, view)
    return PutShard(ShardRef(key, digest, len(view)), np.array(ranges, np.int64), sums, written)


def _finished(tasks: dict[Future[PutShard], int]) -> Iterator[tuple[int, PutShard]]:
    """Yield (shard number, result) as tasks finish; if one fails, those that have not begun are dropped."""
    try:
        for task in as_completed(tasks):
            yield tasks[task], task.result()
    finally:
        for task in tasks:
            task.cancel()
