"""What `benchmarks.loader_peers` reads: the same rows in the same order for every contender, each in its own format."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks import peers
from benchmarks.workloads import Workload, made, samples, tabular, workload_of
from foreshard.shards.repository import Repository
from foreshard.storage import ObjectStore

Kind = Literal["samples", "tabular"]

DATASET: Final = "data"
"""Name of foreshard's dataset below its URL."""

COLUMNS: Final = (
    "month",
    "day",
    "sched_dep_time",
    "dep_delay",
    "sched_arr_time",
    "flight",
    "distance",
    "hour",
    "minute",
    "late",
)
"""The ten columns of the tabular case: what a model of late arrivals would read; `dep_delay` has nulls."""

SHARD_BYTES: Final = peers.MDS_SHARD_BYTES
_FORMAT: Final = "v2"
"""Part of the folders' names; changes when a writer does."""

_FEED_ROWS: Final = 1_000
_FILE_ROWS: Final = 250_000


@dataclass(frozen=True)
class Case:
    """Rows and how all contenders read them.

    Attributes:
        kind: `samples` (25 KB of bytes and a label) or `tabular` (ten narrow columns).
        rows: how many.
        batch: rows in a batch.
        chunk_rows: rows of a chunk of foreshard.
        run_rows: rows of a block of foreshard's order: of one chunk or of several that follow each other.
        window: blocks that foreshard's order shuffles together.
        memory: bytes for foreshard's chunks.
        block: rows within which MosaicML spreads a shard's; at least a shard, or they stay among themselves.
        buffer: rows in WebDataset's shuffle buffer.
        tar_rows: rows of a tar file, 64 MB of them.
        litdata_rows: rows of a chunk of LitData, about as many. LitData deals whole batches to its workers, so two of
            them still share one chunk unless the batches divide evenly; of such a chunk it reads the whole file anew
            for nearly every row, which is why its settings with two workers are so slow.
    """

    kind: Kind
    rows: int
    batch: int
    chunk_rows: int
    run_rows: int
    window: int
    memory: int
    block: int
    buffer: int
    tar_rows: int
    litdata_rows: int

    @property
    def shuffles(self) -> str:
        """How each contender shuffles, as text."""
        return (
            f"shuffles: foreshard {self.window} blocks of {self.run_rows:,} rows from anywhere; MosaicML py1e over "
            f"{self.block:,} rows; LitData shards, in them blocks of 256, in these rows; WebDataset shards and a "
            f"buffer of {self.buffer:,} rows"
        )

    def workload(self) -> Workload:
        """Return the source, to be laid out in the order of its ids: its rows lie in random order already."""
        work = samples(self.rows) if self.kind == "samples" else shuffled_flights(self.rows)
        return replace(work, chunk_rows=self.chunk_rows, order=np.arange(self.rows))


def case_of(kind: Kind, rows: int) -> Case:
    """Return a case of so many rows.

    A shard of the others holds 2,500 samples: foreshard shuffles as many at a time, from 5 places in pieces of 12.5 MB.
    MosaicML cannot mix samples of two shards with less than 5,000. Of narrow rows foreshard shuffles as many at a time
    as MosaicML; a chunk of them has 400 KB.
    """
    half = -(-rows // 2)
    if kind == "samples":
        sizes = {"chunk_rows": 100, "run_rows": 500, "tar_rows": 2_500, "litdata_rows": min(2_500, half)}
        return Case("samples", rows, 256, window=5, memory=256 << 20, block=5_000, buffer=2_500, **sizes)
    sizes = {"chunk_rows": 16_384, "run_rows": 16_384, "tar_rows": 65_536, "litdata_rows": min(750_000, half)}
    return Case("tabular", rows, 1_024, window=4, memory=64 << 20, block=65_536, buffer=10_000, **sizes)


def shuffled_flights(rows: int) -> Workload:
    """Return ten columns of the flights of 2013, repeated up to so many rows and shuffled, in Parquet files."""

    def fill(partial: Path) -> None:
        table = pa.concat_tables(pq.read_table(file, columns=list(COLUMNS)) for file in tabular().files)
        random = np.random.default_rng(3)
        repeated = np.tile(np.arange(len(table)), -(-rows // len(table)))[:rows]
        table = table.combine_chunks().take(random.permutation(repeated))
        for start in range(0, rows, _FILE_ROWS):
            pq.write_table(table.slice(start, _FILE_ROWS), partial / f"part-{start // _FILE_ROWS:05d}.parquet")

    return workload_of("tabular", made(f"flights10-{rows}", fill), chunk_rows=1_024, shard_rows=4 << 20)


# -- what must arrive ----------------------------------------------------------------------------------


def checksums(kind: Kind, columns: Any) -> NDArray[np.int64]:  # noqa: ANN401 - a pair or a dict, see `Contender`
    """Return the sums of a batch that a whole epoch's must add up to, int64 (3,).

    Samples: bytes, labels, and labels times the first and last byte of their payloads. Tabular: rows, flight numbers,
    and flight numbers times distances. Products show that a row's values have stayed together.
    """
    if kind == "samples":
        payloads, labels = columns
        edges = np.fromiter((payload[0] + payload[-1] for payload in payloads), np.int64, len(payloads))
        return np.array([sum(map(len, payloads)), labels.sum(), np.dot(labels, edges)], np.int64)
    flight = columns["flight"].astype(np.int64)
    return np.array([len(flight), flight.sum(), np.dot(flight, columns["distance"])], np.int64)


def expected_checksums(work: Workload) -> list[int]:
    """Return what `checksums` of all batches of a source must add up to, computed from its Parquet files."""
    total = np.zeros(3, np.int64)
    for file in work.files:
        for group in pq.ParquetFile(file).iter_batches(batch_size=_FEED_ROWS):
            if work.name == "samples":
                columns: Any = (payload_views(group.column("payload")), group.column("label").to_numpy())
            else:
                columns = {name: group.column(name).to_numpy() for name in ("flight", "distance")}
            total += checksums("samples" if work.name == "samples" else "tabular", columns)
    return total.tolist()


def payload_views(column: "pa.Array[Any]") -> list[memoryview]:
    """Return views of the values of a binary array, without copies."""
    _, offsets, values = column.buffers()
    assert offsets is not None
    assert values is not None
    ends = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1].tolist()
    raw = memoryview(values).cast("B")
    return [raw[start:end] for start, end in itertools.pairwise(ends)]


# -- datasets ------------------------------------------------------------------------------------------


def dataset_folder(peer: str, kind: Kind, rows: int) -> Path:
    """Return a peer's dataset, written now or earlier, in shards of 64 MB without compression or hashes."""

    def fill(partial: Path) -> None:
        case = case_of(kind, rows)
        _WRITERS[peer](case, case.workload(), partial)

    return made(f"{peer}-{_FORMAT}-{kind}-{rows}", fill)


def _write_mds(_: Case, work: Workload, out: Path) -> None:
    out.rmdir()  # its writer wants to make it
    peers.write_mds(work.files, work.order, out)


def _write_litdata(case: Case, work: Workload, out: Path) -> None:
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(out), chunk_size=case.litdata_rows)
    for number, row in enumerate(_rows(work.files)):
        writer[number] = row
    writer.done()
    writer.merge()


def _write_tars(case: Case, work: Workload, out: Path) -> None:
    """Write samples as a file and a class, as WebDataset's users do; rows as one packed record, its quickest form.

    Its default, the time with fractions of a second, would add a header to every file and so double the tabular tars.
    """
    import webdataset as wds

    options = {"maxcount": case.tar_rows, "maxsize": 2 * SHARD_BYTES, "encoder": False, "mtime": 0, "verbose": 0}
    with wds.ShardWriter(str(out / "%06d.tar"), **options) as writer:
        if work.name == "samples":
            for number, row in enumerate(_rows(work.files)):
                writer.write({"__key__": f"{number:09d}", "bin": row["payload"], "cls": b"%d" % row["label"]})
            return
        for number, record in enumerate(_records(work.files)):
            writer.write({"__key__": f"{number:09d}", "row": record})


def _rows(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield rows as Python values, nulls as zeros."""
    for file in files:
        for group in pq.ParquetFile(file).iter_batches(batch_size=_FEED_ROWS):
            values = [column.fill_null(0) if column.null_count else column for column in group.columns]
            for row in zip(*(column.to_pylist() for column in values), strict=True):
                yield dict(zip(group.schema.names, row, strict=True))


def record_type() -> np.dtype[np.void]:
    """Return the packed record of a row of the tabular case."""
    wide = {"month": "i1", "day": "i1", "hour": "i1", "minute": "i1", "late": "?"}
    return np.dtype([(name, wide.get(name, "<i2")) for name in COLUMNS])


def _records(files: Sequence[Path]) -> Iterator[bytes]:
    for file in files:
        for group in pq.ParquetFile(file).iter_batches(batch_size=_FEED_ROWS):
            records = np.zeros(len(group), record_type())
            for name in COLUMNS:
                column = group.column(name)
                records[name] = (column.fill_null(0) if column.null_count else column).to_numpy(zero_copy_only=False)
            yield from (record.tobytes() for record in records)


_WRITERS: Final = {"mosaicml": _write_mds, "litdata": _write_litdata, "webdataset": _write_tars}
PEERS: Final = tuple(_WRITERS)


def upload(folder: Path, url: str, endpoint: str) -> list[str]:
    """Put the files of a folder below a URL; return their names."""
    store = ObjectStore.open(url, endpoint=endpoint)
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    for path in paths:
        store.put(path.name, path.read_bytes())
    return [path.name for path in paths]


def publish(case: Case, url: str, endpoint: str) -> None:
    """Lay out a case's source as foreshard's dataset below a URL."""
    from benchmarks.workloads import lay_out

    store = ObjectStore.open(url, endpoint=endpoint)
    outcome = lay_out(case.workload(), store)
    Repository(store, DATASET).publish(outcome.ref)
