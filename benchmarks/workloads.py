"""The data that benchmarks work on: Parquet sources, made once and kept, and plans that shuffle them into shards."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from foreshard.keys import LayoutRef
from foreshard.layout.inherited import Inherited
from foreshard.layout.plan import Plan, chunk_content_ids, slots_in_turn, sort_inside_chunks
from foreshard.layout.reuse import reuse_shards
from foreshard.shards.repository import Materialized, Repository
from foreshard.source import Snapshot, SourceReader, take_snapshot
from foreshard.storage import ObjectStore

SAMPLE_BYTES: Final = 25_000
"""Payload of one sample of the workload `samples`: about that of a small JPEG."""

_FILE_ROWS: Final = 5_000
_ROW_GROUP_ROWS: Final = 1_000


@dataclass(frozen=True)
class Workload:
    """A source and how it is laid out.

    Attributes:
        name: what tables call it.
        folder: the Parquet files.
        snapshot: their snapshot.
        chunk_rows: samples in a chunk.
        shard_rows: samples in a shard, about 64 MB of them, as MosaicML's default is.
        order: (n,) int64, the sample ids in shuffled order; every contender writes this order.
    """

    name: str
    folder: Path
    snapshot: Snapshot
    chunk_rows: int
    shard_rows: int
    order: NDArray[np.int64]

    @property
    def files(self) -> list[Path]:
        """The Parquet files in sample-id order."""
        return [self.folder / file.key for file in self.snapshot.files]


def samples(rows: int) -> Workload:
    """Return samples of 25 KB that do not compress, and an integer label, in Parquet files of 125 MB."""
    folder = made(f"samples-{rows}", lambda partial: write_samples(partial, rows))
    return workload_of("samples", folder, chunk_rows=100, shard_rows=2_500)


def small_samples(chunks: int) -> Workload:
    """Return samples of 2.5 KB in chunks of ten, all of one size; neighbours by id lie together."""
    rows = 10 * chunks
    folder = made(f"small-samples-{rows}", lambda partial: write_samples(partial, rows, sample_bytes=2_500))
    work = workload_of("small samples", folder, chunk_rows=10, shard_rows=1_000)
    return replace(work, order=np.arange(rows))


def tabular(rows: int | None = None) -> Workload:
    """Return the flights of 2013: rows of 20 narrow columns with nulls and text, in a Parquet file a month."""
    from examples.flights.source import prepare_source

    def fill(partial: Path) -> None:
        partial.rmdir()
        prepare_source(partial, rows)

    return workload_of("tabular", made(f"tabular-{rows or 'all'}", fill), chunk_rows=1_024, shard_rows=512 * 1_024)


def write_samples(folder: Path, rows: int, *, seed: int = 0, sample_bytes: int = SAMPLE_BYTES) -> None:
    """Write the samples of the workload `samples` as Parquet, one row group after the other."""
    random = np.random.default_rng(seed)
    schema = pa.schema([pa.field("payload", pa.binary()), pa.field("label", pa.int64())])
    for start in range(0, rows, _FILE_ROWS):
        # Random bytes neither compress nor repeat: trying to would only cost time, for every contender alike.
        path = folder / f"part-{start // _FILE_ROWS:05d}.parquet"
        with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
            for first in range(start, min(start + _FILE_ROWS, rows), _ROW_GROUP_ROWS):
                count = min(_ROW_GROUP_ROWS, start + _FILE_ROWS - first, rows - first)
                raw = pa.py_buffer(random.bytes(count * sample_bytes))
                offsets = pa.py_buffer(np.arange(count + 1, dtype=np.int32) * np.int32(sample_bytes))
                payload = pa.Array.from_buffers(pa.binary(), count, [None, offsets, raw])
                labels = pa.array(random.integers(0, 1_000, count))
                writer.write_batch(pa.record_batch([payload, labels], schema=schema))


# -- layouts -------------------------------------------------------------------------------------------


def plan_for(workload: Workload) -> Plan:
    """Return the first plan of a workload: its shuffled samples in chunks and shards of one size, on one node."""
    return _plan(workload, workload.order, "bench.e000000", None)


def successor(workload: Workload, parent: Plan, share: float) -> Plan:
    """Return a plan in which scattered chunks have new content; it inherits shards as the planner's plans do.

    Chunks are drawn in pairs, and the two of a pair exchange every other sample.

    Args:
        workload: what the parent lays out.
        parent: the layout in place, from `plan_for`.
        share: of the chunks, how many change; at least one pair does.
    """
    ids = parent.sample_ids.copy()
    whole = len(ids) // workload.chunk_rows  # a shorter last chunk stays as it is
    pairs = max(1, round(whole * share / 2))
    drawn = np.random.default_rng(2).choice(whole, 2 * pairs, replace=False).reshape(pairs, 2)
    positions = drawn[:, :, None] * workload.chunk_rows + np.arange(0, workload.chunk_rows, 2)
    ids[positions[:, 0]], ids[positions[:, 1]] = ids[positions[:, 1]], ids[positions[:, 0]]
    return _plan(workload, ids, "bench.e000001", parent)


@dataclass(frozen=True)
class Outcome:
    """A layout as made and committed, and the seconds that all of it took."""

    ref: LayoutRef
    made: Materialized
    seconds: float


def lay_out(workload: Workload, store: ObjectStore, plan: Plan | None = None) -> Outcome:
    """Materialise and commit a plan, `plan_for`'s if left out, in the dataset `data` of a store.

    What is done once per source is not timed: its snapshot, which reads every byte, and the plan.
    """
    plan = plan_for(workload) if plan is None else plan
    splits = np.zeros(workload.snapshot.rows, np.uint8)
    began = time.perf_counter()
    repository = Repository(store, "data")
    repository.save_snapshot(workload.snapshot, splits)
    made = repository.materialize(plan, SourceReader(workload.snapshot))
    ref = repository.commit(made.manifest)
    return Outcome(ref, made, time.perf_counter() - began)


def _plan(workload: Workload, order: NDArray[np.int64], generation: str, parent: Plan | None) -> Plan:
    total = len(order)
    count = -(-total // workload.chunk_rows)
    offsets = np.minimum(np.arange(count + 1, dtype=np.int64) * workload.chunk_rows, total)
    ids = sort_inside_chunks(order, offsets)
    rows = np.diff(offsets).astype(np.int32)
    names = chunk_content_ids(ids, offsets)
    split = np.zeros(count, np.uint8)
    shard, inherited = _pack(workload, parent, split, rows, names)
    chunks = pa.table(
        {
            "chunk": np.arange(count, dtype=np.int32),
            "split": split,
            "group": np.zeros(count, np.int32),
            "node": np.zeros(count, np.int32),
            "shard": shard,
            "rows": rows,
            "heat": rows.astype(np.float64),
            "content_id": pa.array(names, pa.binary(16)),
        }
    )
    return Plan(
        generation=generation,
        fingerprint=workload.snapshot.fingerprint,
        strategy="seeded_shuffle",
        root_seed=7,
        nodes=("node-0",),
        parent=parent.ref if parent else None,
        decision="reshard" if parent else "bootstrap",
        reason="benchmark",
        predicted={},
        chunks=chunks,
        sample_ids=ids,
        inherited=inherited,
    )


def _pack(
    workload: Workload, parent: Plan | None, split: NDArray[np.uint8], rows: NDArray[np.int32], names: list[bytes]
) -> tuple[NDArray[np.int32], Inherited]:
    """Return the shard of every chunk as `foreshard.layout.placement` does, but with new shards of one size."""
    reuse = reuse_shards(parent, split, rows.astype(np.float64), names)
    fresh = reuse.shard < 0
    first = np.cumsum(rows[fresh]) - rows[fresh]
    shard = reuse.shard.copy()
    shard[fresh] = reuse.inherited.shards + first // workload.shard_rows
    if not reuse.inherited.shards:
        return shard, reuse.inherited
    slot = np.where(fresh, slots_in_turn(shard), reuse.inherited.slot).astype(np.int32)
    return shard, replace(reuse.inherited, slot=slot)


# -- sources -------------------------------------------------------------------------------------------


def workload_of(name: str, folder: Path, *, chunk_rows: int, shard_rows: int) -> Workload:
    """Return the Parquet files of a folder as a workload, in an order that is the same in every run."""
    snapshot = take_snapshot(folder.as_uri())
    order = np.random.default_rng(1).permutation(snapshot.rows)
    return Workload(name, folder, snapshot, chunk_rows, shard_rows, order)


def made(name: str, fill: Callable[[Path], None]) -> Path:
    """Return a temporary folder that `fill` filled, now or earlier; it is there whole or not at all."""
    base = Path(tempfile.gettempdir()) / f"foreshard-bench-{os.getuid()}"
    folder = base / name
    if not folder.exists():
        partial = base / f"{name}.partial-{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        fill(partial)
        partial.rename(folder)
    return folder
