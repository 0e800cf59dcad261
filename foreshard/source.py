"""The user's Parquet files: a snapshot with a fingerprint, and rows by sample id."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from foreshard.errors import SourceError
from foreshard.storage import ObjectStore


@dataclass(frozen=True)
class SourceFile:
    """One file of a snapshot: key in its store, size in bytes, entity tag and row count."""

    key: str
    size: int
    e_tag: str
    rows: int


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
        """SHA-256 (first 32 hex digits) of keys, sizes, tags and row counts of the files, and the schema."""
        state = [[f.key, f.size, f.e_tag, f.rows] for f in self.files]
        return hashlib.sha256(json.dumps([state, self.schema_hex]).encode()).hexdigest()[:32]

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
        SourceError: no file, no row, files of different schemas, or a required column that is missing.
    """
    store = ObjectStore.open(url, endpoint=endpoint)
    metas = [meta for meta in store.list("") if meta.key.endswith(".parquet")]
    if not metas:
        raise SourceError(f"source {url} holds no .parquet file; point dataset.source at a folder of Parquet files")
    files: list[SourceFile] = []
    schema: pa.Schema | None = None
    for meta in metas:
        footer = _open_parquet(store, meta.key)
        found = footer.schema_arrow.remove_metadata()
        if schema is None:
            schema = found
        elif not found.equals(schema):
            raise SourceError(f"source file {meta.key!r} in {url} has the schema {found}, others have {schema}")
        # The content's digest, not the server's tag: the same files give the same fingerprint on every store.
        digest = hashlib.sha256(store.get(meta.key)).hexdigest()[:32]
        files.append(SourceFile(meta.key, meta.size, digest, footer.metadata.num_rows))
    assert schema is not None
    if not sum(file.rows for file in files):
        raise SourceError(f"source {url} has {len(files)} files but no row; there is nothing to train on")
    for column in required:
        if column not in schema.names:
            raise SourceError(f"source {url} has no column {column!r}; it has {', '.join(schema.names)}")
    return Snapshot(url, endpoint, tuple(files), schema.serialize().to_pybytes().hex())


def _open_parquet(store: ObjectStore, key: str) -> pq.ParquetFile:
    filesystem, base = store.filesystem()
    try:
        return pq.ParquetFile(filesystem.open_input_file(f"{base}/{key}"))
    except (pa.ArrowInvalid, OSError) as error:
        raise SourceError(f"source file {key!r} in {store.url} is not readable as Parquet: {error}") from error


class SourceReader:
    """Reads rows of a snapshot by sample id. Files that changed since the snapshot are refused.

    Args:
        snapshot: what to read.
        columns: the columns wanted, all by default.
    """

    def __init__(self, snapshot: Snapshot, columns: Sequence[str] | None = None) -> None:
        self.snapshot = snapshot
        self.columns = list(columns) if columns is not None else list(snapshot.schema.names)
        self._store = ObjectStore.open(snapshot.url, endpoint=snapshot.endpoint)
        self._check_unchanged()

    def _check_unchanged(self) -> None:
        sizes = {meta.key: meta.size for meta in self._store.list("")}
        for file in self.snapshot.files:
            if sizes.get(file.key) != file.size:
                raise SourceError(
                    f"source file {file.key!r} in {self.snapshot.url} had {file.size} bytes in snapshot "
                    f"{self.snapshot.fingerprint} and has {sizes.get(file.key)} now; sources are immutable, add files instead"
                )

    def scan(self) -> Iterator[tuple[int, pa.Table]]:
        """Yield (first sample id, table) for every row group, in sample-id order."""
        start = 0
        for file in self.snapshot.files:
            parquet = _open_parquet(self._store, file.key)
            for group in range(parquet.num_row_groups):
                table = parquet.read_row_group(group, columns=self.columns).select(self.columns)
                yield start, table.replace_schema_metadata(None)
                start += table.num_rows

    def take(self, sample_ids: NDArray[np.int64]) -> pa.Table:
        """Return the rows of the given sample ids, in the given order; each row group is read once.

        Raises:
            SourceError: an id outside 0..rows-1.
        """
        ids = np.asarray(sample_ids, np.int64)
        if len(ids) and (ids.min() < 0 or ids.max() >= self.snapshot.rows):
            raise SourceError(f"sample ids {ids.min()}..{ids.max()} are not within 0..{self.snapshot.rows - 1}")
        order = np.argsort(ids, kind="stable")
        wanted = ids[order]
        parts: list[pa.Table] = []
        for start, table in self.scan():
            low, high = np.searchsorted(wanted, [start, start + table.num_rows])
            if high > low:
                parts.append(table.take(wanted[low:high] - start))
        if not parts:
            return pa.schema([self.snapshot.schema.field(c) for c in self.columns]).empty_table()
        inverse = np.empty(len(order), np.int64)
        inverse[order] = np.arange(len(order))
        return pa.concat_tables(parts).combine_chunks().take(inverse)
