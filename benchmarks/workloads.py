"""The data that benchmarks work on: Parquet sources, made once and kept, and plans that shuffle them into shards."""

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from foreshard.layout.plan import Plan, chunk_content_ids
from foreshard.source import Snapshot, take_snapshot

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
    folder = _made(f"samples-{rows}", lambda partial: write_samples(partial, rows))
    return _workload("samples", folder, chunk_rows=100, shard_rows=2_500)


def tabular(rows: int | None = None) -> Workload:
    """Return the flights of 2013: rows of 20 narrow columns with nulls and text, in a Parquet file a month."""
    from examples.flights.source import prepare_source

    def fill(partial: Path) -> None:
        partial.rmdir()
        prepare_source(partial, rows)

    return _workload("tabular", _made(f"tabular-{rows or 'all'}", fill), chunk_rows=1_024, shard_rows=512 * 1_024)


def write_samples(folder: Path, rows: int, *, seed: int = 0) -> None:
    """Write the samples of the workload `samples` as Parquet, one row group after the other."""
    random = np.random.default_rng(seed)
    schema = pa.schema([pa.field("payload", pa.binary()), pa.field("label", pa.int64())])
    for start in range(0, rows, _FILE_ROWS):
        # Random bytes neither compress nor repeat: trying to would only cost time, for every contender alike.
        path = folder / f"part-{start // _FILE_ROWS:05d}.parquet"
        with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
            for first in range(start, min(start + _FILE_ROWS, rows), _ROW_GROUP_ROWS):
                count = min(_ROW_GROUP_ROWS, start + _FILE_ROWS - first, rows - first)
                raw = pa.py_buffer(random.bytes(count * SAMPLE_BYTES))
                offsets = pa.py_buffer(np.arange(0, (count + 1) * SAMPLE_BYTES, SAMPLE_BYTES, dtype=np.int32))
                payload = pa.Array.from_buffers(pa.binary(), count, [None, offsets, raw])
                labels = pa.array(random.integers(0, 1_000, count))
                writer.write_batch(pa.record_batch([payload, labels], schema=schema))


def plan_for(
    workload: Workload,
    *,
    generation: str = "bench.e000000",
    parent: str | None = None,
    order: NDArray[np.int64] | None = None,
    nodes: int = 1,
) -> Plan:
    """Return a plan of a workload's shuffled samples in chunks and shards of one size, dealt to nodes in turn.

    Args:
        workload: what to lay out.
        generation: key of the generation.
        parent: digest of the plan it replaces.
        order: (n,) sample ids, cut into chunks in this order; the workload's own if left out.
        nodes: how many nodes share the shards.
    """
    order = workload.order if order is None else order
    total = len(order)
    count = -(-total // workload.chunk_rows)
    offsets = np.minimum(np.arange(count + 1, dtype=np.int64) * workload.chunk_rows, total)
    ids = order[np.lexsort((order, np.arange(total) // workload.chunk_rows))]
    shard = (offsets[:-1] // workload.shard_rows).astype(np.int32)
    rows = np.diff(offsets).astype(np.int32)
    chunks = pa.table(
        {
            "chunk": np.arange(count, dtype=np.int32),
            "split": np.zeros(count, np.uint8),
            "group": np.zeros(count, np.int32),
            "node": (shard % nodes).astype(np.int32),
            "shard": shard,
            "rows": rows,
            "heat": rows.astype(np.float64),
            "content_id": pa.array(list(map(bytes, chunk_content_ids(ids, offsets))), pa.binary(16)),
        }
    )
    return Plan(
        generation=generation,
        fingerprint=workload.snapshot.fingerprint,
        strategy="seeded_shuffle",
        root_seed=7,
        nodes=tuple(f"node-{n}" for n in range(nodes)),
        parent=parent,
        decision="reshard" if parent else "bootstrap",
        reason="benchmark",
        predicted={},
        chunks=chunks,
        sample_ids=ids,
    )


def _workload(name: str, folder: Path, *, chunk_rows: int, shard_rows: int) -> Workload:
    snapshot = take_snapshot(folder.as_uri())
    order = np.random.default_rng(1).permutation(snapshot.rows)
    return Workload(name, folder, snapshot, chunk_rows, shard_rows, order)


def _made(name: str, fill: Callable[[Path], None]) -> Path:
    """Return a folder below the temporary folder that `fill` filled, now or earlier; it is there whole or not at all."""
    base = Path(tempfile.gettempdir()) / f"foreshard-bench-{os.getuid()}"
    folder = base / name
    if not folder.exists():
        partial = base / f"{name}.partial-{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        fill(partial)
        partial.rename(folder)
    return folder
