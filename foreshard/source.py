"""The user's Parquet files: a snapshot with a fingerprint, and rows by sample id."""

import hashlib
import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from foreshard.errors import SourceError
from foreshard.storage import ObjectStore

_READ_BYTES: Final = 64 << 20


@dataclass(frozen=True)
class SourceFile:
    """One file of a snapshot.

    Attributes:
        key: its key in the source's store.
        size: bytes.
        e_tag: digest of the content: the same files give the same fingerprint on every store.
        rows: number of rows.
        version: the store's own tag when the snapshot was taken; no part of the fingerprint. While it stands, the
            content need not be read again to know that it is the same.
    """

    key: str
    size: int
    e_tag: str
    rows: int
    version: str = ""


@dataclass(frozen=True)
class Snapshot:
    """One state of the source. `sample_id` is a row's position in the concatenation of `files`.

    Attributes:
        url: URL of the store or folder that holds the files.
        endpoint: S3 endpoint of that store, if not AWS.
        files: in key order; appended files sort last, so ids are extended, never renumbered.
        schema_hex: the serialised Arrow schema, in hexadecimal.
    """

    url: str
    endpoint: str | None
    files: tuple[SourceFile, ...]
    schema_hex: str

    @property
    def rows(self) -> int:
        """Number of samples."""
        return sum(file.rows for file in self.files)

    @cached_property
    def schema(self) -> pa.Schema:
        """The Arrow schema of every file."""
        return pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(self.schema_hex)))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (first 32 hex digits) of keys, sizes, digests and row counts of the files, and the schema.

        Not of where the files lie, nor of `schema_hex`, whose bytes another version of Arrow may write differently.
        """
        state = [[f.key, f.size, f.e_tag, f.rows] for f in self.files]
        columns = [[field.name, str(field.type), field.nullable] for field in self.schema]
        return hashlib.sha256(json.dumps([state, columns]).encode()).hexdigest()[:32]

    def to_json(self) -> str:
        """Return the snapshot as JSON text."""
        return json.dumps({**asdict(self), "fingerprint": self.fingerprint, "rows": self.rows}, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Snapshot":
        """Rebuild a snapshot from `to_json`'s output."""
        raw = json.loads(text)
        files = tuple(SourceFile(**file) for file in raw["files"])
        return cls(raw["url"], raw["endpoint"], files, raw["schema_hex"])


def take_snapshot(url: str, *, endpoint: str | None = None, required: Sequence[str] = ()) -> Snapshot:
    """List the Parquet files below a URL and read their footers.

    Args:
        url: a store URL, see `ObjectStore.open`; every `*.parquet` below it belongs to the source.
        endpoint: S3 endpoint, if not AWS.
        required: columns that must be there (the target and key columns).

    Raises:
        SourceError: no file, no row, an unreadable file, files of different schemas, or a required column that is
            missing.
        UnreachableError: there is no such folder, bucket or endpoint.
    """
    store = ObjectStore.open(url, endpoint=endpoint, must_exist=True)
    metas = [meta for meta in store.list("") if meta.key.endswith(".parquet")]
    if not metas:
        raise SourceError(f"source {url} holds no .parquet file; point dataset.source at a folder of Parquet files")
    files: list[SourceFile] = []
    schema: pa.Schema | None = None
    for meta in metas:
        with _open_parquet(store, meta.key) as parquet:
            found, rows = parquet.schema_arrow.remove_metadata(), parquet.metadata.num_rows
        if schema is None:
            schema = found
        elif not found.equals(schema):
            raise SourceError(
                f"source file {meta.key!r} in {url} has other columns than {metas[0].key!r}: "
                f"{_difference(schema, found)}; give all files of a source the same schema"
            )
        files.append(SourceFile(meta.key, meta.size, _digest(store, meta.key, meta.size), rows, meta.e_tag))
    assert schema is not None
    if not sum(file.rows for file in files):
        raise SourceError(f"source {url} has {len(files)} files but no row; there is nothing to train on")
    _check_columns(url, schema, required)
    return Snapshot(url, endpoint, tuple(files), schema.serialize().to_pybytes().hex())


def _check_columns(url: str, schema: pa.Schema, wanted: Sequence[str]) -> None:
    for column in wanted:
        if column not in schema.names:
            raise SourceError(f"source {url} has no column {column!r}; it has {', '.join(schema.names)}")


def _difference(expected: pa.Schema, found: pa.Schema) -> str:
    """Name the first column in which two schemas differ."""
    for name in dict.fromkeys([*expected.names, *found.names]):
        if name not in found.names:
            return f"it lacks {name!r}"
        if name not in expected.names:
            return f"it has {name!r} beside"
        if not expected.field(name).equals(found.field(name)):
            return f"{name!r} is {_described(found.field(name))}, not {_described(expected.field(name))}"
    return f"their order is {', '.join(found.names)}"


def _described(field: "pa.Field[pa.DataType]") -> str:
    return f"{field.type}" if field.nullable else f"{field.type} not null"


def _digest(store: ObjectStore, key: str, size: int) -> str:
    """Return the digest of an object's content, in bounded memory."""
    digest = hashlib.sha256()
    for start in range(0, size, _READ_BYTES):
        digest.update(store.get_range(key, start, min(start + _READ_BYTES, size)))
    return digest.hexdigest()[:32]


@contextmanager
def _open_parquet(store: ObjectStore, key: str) -> Generator[pq.ParquetFile]:
    filesystem, base = store.filesystem()
    try:
        with filesystem.open_input_file(f"{base}/{key}") as raw:
            yield pq.ParquetFile(raw, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise SourceError(
            f"source file {key!r} in {store.url} is not readable as Parquet ({reason}); write it again or remove it"
        ) from error


class SourceReader:
    """Reads rows of a snapshot by sample id. Files that changed since the snapshot are refused.

    Args:
        snapshot: what to read.
        columns: the columns wanted, all by default.

    Raises:
        SourceError: a column or file is not there, or a file's content is not what it was.
    """

    def __init__(self, snapshot: Snapshot, columns: Sequence[str] | None = None) -> None:
        self.snapshot = snapshot
        self.columns = list(columns) if columns is not None else list(snapshot.schema.names)
        _check_columns(snapshot.url, snapshot.schema, self.columns)
        self._store = ObjectStore.open(snapshot.url, endpoint=snapshot.endpoint, must_exist=True)
        self._check_unchanged()

    def _check_unchanged(self) -> None:
        found = {meta.key: meta for meta in self._store.list("")}
        for file in self.snapshot.files:
            meta = found.get(file.key)
            if meta is None:
                now = "is gone"
            elif meta.size != file.size:
                now = f"has {meta.size} bytes now"
            elif (meta.e_tag != file.version or not file.version) and (
                _digest(self._store, file.key, file.size) != file.e_tag
            ):
                now = "has other content now"
            else:
                continue
            raise SourceError(
                f"source file {file.key!r} in {self.snapshot.url} had {file.size} bytes in snapshot "
                f"{self.snapshot.fingerprint} and {now}; sources are immutable: put it back and add new files instead"
            )

    def scan(self) -> Iterator[tuple[int, pa.Table]]:
        """Yield (first sample id, table) for every row group, in sample-id order."""
        yield from self._row_groups(None)

    def _row_groups(self, wanted: NDArray[np.int64] | None) -> Iterator[tuple[int, pa.Table]]:
        """Yield the row groups that hold any of the ascending ids `wanted`; the others are not read."""
        first = 0
        for file in self.snapshot.files:
            if _holds(wanted, first, first + file.rows):
                with _open_parquet(self._store, file.key) as parquet:
                    start = first
                    for group in range(parquet.num_row_groups):
                        rows = parquet.metadata.row_group(group).num_rows
                        if _holds(wanted, start, start + rows):
                            table = parquet.read_row_group(group, columns=self.columns).select(self.columns)
                            yield start, table.replace_schema_metadata(None)
                        start += rows
            first += file.rows

    def take(self, sample_ids: NDArray[np.int64]) -> pa.Table:
        """Return the rows of the given sample ids, in the given order; each row group is read at most once.

        Raises:
            SourceError: an id outside 0..rows-1.
        """
        ids = np.asarray(sample_ids, np.int64)
        if len(ids) and (ids.min() < 0 or ids.max() >= self.snapshot.rows):
            raise SourceError(f"sample ids {ids.min()}..{ids.max()} are not within 0..{self.snapshot.rows - 1}")
        order = np.argsort(ids, kind="stable")
        wanted = ids[order]
        parts: list[pa.Table] = []
        for start, table in self._row_groups(wanted):
            low, high = np.searchsorted(wanted, [start, start + table.num_rows])
            parts.append(table.take(wanted[low:high] - start))
        if not parts:
            return pa.schema([self.snapshot.schema.field(c) for c in self.columns]).empty_table()
        inverse = np.empty(len(order), np.int64)
        inverse[order] = np.arange(len(order))
        return pa.concat_tables(parts).combine_chunks().take(inverse)


def _holds(wanted: NDArray[np.int64] | None, start: int, end: int) -> bool:
    """Whether any of the ascending ids lies in `[start, end)`; None stands for all ids."""
    if wanted is None:
        return True
    low, high = np.searchsorted(wanted, [start, end])
    return bool(low < high)
