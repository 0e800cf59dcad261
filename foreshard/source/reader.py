"""Rows of a snapshot by sample id, streamed in bounded memory, every byte verified."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.errors import ConfigError, SourceError
from foreshard.source.parquet import ParquetRows
from foreshard.source.snapshot import Snapshot, check_columns
from foreshard.source.verified import VerifiedFile
from foreshard.storage import ObjectStore

BATCH_BYTES: Final = 32 << 20
"""About how many bytes a table of a scan has in memory."""


class SourceReader:
    """Reads rows of a snapshot by sample id. Files that changed since the snapshot are refused.

    Args:
        snapshot: what to read.
        columns: the columns wanted, all by default.

    Raises:
        SourceError: a column or file is not there, a file's content is not what it was, or the snapshot has no block
            checksums to verify it by.
        CorruptDataError: the record of the block checksums is damaged.
    """

    def __init__(self, snapshot: Snapshot, columns: Sequence[str] | None = None) -> None:
        self.snapshot = snapshot
        self.columns = list(columns) if columns is not None else list(snapshot.schema.names)
        check_columns(snapshot.url, snapshot.schema, self.columns)
        snapshot.checksums()
        self._store = ObjectStore.open(snapshot.url, endpoint=snapshot.endpoint, must_exist=True)
        self._check_unchanged()

    def _check_unchanged(self) -> None:
        found = {meta.key: meta for meta in self._store.list("")}
        for number, file in enumerate(self.snapshot.files):
            meta = found.get(file.key)
            if meta is None:
                now = "is gone"
            elif meta.size != file.size:
                now = f"has {meta.size} bytes now"
            elif (meta.e_tag != file.version or not file.version) and not self._open(number).intact():
                now = "has other content now"
            else:
                continue
            raise SourceError(
                f"source file {file.key!r} in {self.snapshot.url} had {file.size} bytes in snapshot "
                f"{self.snapshot.fingerprint} and {now}; sources are immutable: put it back and add new files instead"
            )

    def _open(self, number: int) -> VerifiedFile:
        sums = self.snapshot.file_sums(number)
        state = f"snapshot {self.snapshot.fingerprint}"
        return VerifiedFile(self._store, self.snapshot.files[number], sums, state)

    def scan(
        self,
        *,
        columns: Sequence[str] | None = None,
        wanted: NDArray[np.int64] | None = None,
        batch_bytes: int = BATCH_BYTES,
    ) -> Iterator[tuple[int, pa.Table]]:
        """Yield (first sample id, table) in sample-id order; a table's rows have consecutive ids.

        Row groups are streamed, each once, in memory that depends neither on their size nor on the dataset's: about
        two tables, `LOAD_BYTES` of the file, and a block and a page for every column.

        Args:
            columns: the columns wanted, those of the reader by default.
            wanted: shape (k,), ascending sample ids; tables that hold none of them are left out, and row groups that
                hold none are not even read. All rows by default.
            batch_bytes: about how many bytes a table has in memory; one row at least.

        Raises:
            SourceError: an id is outside 0..rows-1, a column is not there, or a file's bytes are not what they were.
            ConfigError: `wanted` is not ascending, or `batch_bytes` is less than 1.
        """
        names = self.columns if columns is None else list(columns)
        check_columns(self.snapshot.url, self.snapshot.schema, names)
        if batch_bytes < 1:
            raise ConfigError(f"batch_bytes is {batch_bytes}; give the bytes of a table, 1 at least")
        if wanted is not None:
            wanted = np.asarray(wanted, np.int64)
            if (np.diff(wanted) < 0).any():
                raise ConfigError("the sample ids wanted of a scan are not ascending; sort them")
            self._check_ids(wanted)
        return self._scan(names, wanted, batch_bytes)

    def _scan(
        self, names: list[str], wanted: NDArray[np.int64] | None, batch_bytes: int
    ) -> Iterator[tuple[int, pa.Table]]:
        first = 0
        for number, file in enumerate(self.snapshot.files):
            if file.rows and _holds(wanted, first, first + file.rows):
                rows = ParquetRows(self._open(number), names)
                edges = first + np.cumsum([0, *rows.group_rows()])
                groups = [g for g in range(len(edges) - 1) if _holds(wanted, int(edges[g]), int(edges[g + 1]))]
                start, previous = 0, -1
                for group, batch in rows.read(groups, batch_bytes):
                    start = int(edges[group]) if group != previous else start
                    previous = group
                    if _holds(wanted, start, start + batch.num_rows):
                        table = pa.Table.from_batches([batch]).select(names)
                        yield start, table.replace_schema_metadata(None)
                    start += batch.num_rows
            first += file.rows

    def take(self, sample_ids: NDArray[np.int64]) -> pa.Table:
        """Return the rows of the given sample ids, in the given order; each row group is read at most once.

        Raises:
            SourceError: an id outside 0..rows-1, or a file's bytes are not what they were.
        """
        ids = np.asarray(sample_ids, np.int64)
        order = np.argsort(ids, kind="stable")
        wanted = ids[order]
        parts: list[pa.Table] = []
        for start, table in self.scan(wanted=wanted):
            low, high = np.searchsorted(wanted, [start, start + table.num_rows])
            parts.append(table.take(wanted[low:high] - start))
        if not parts:
            return pa.schema([self.snapshot.schema.field(c) for c in self.columns]).empty_table()
        inverse = np.empty(len(order), np.int64)
        inverse[order] = np.arange(len(order))
        return pa.concat_tables(parts).combine_chunks().take(inverse)

    def _check_ids(self, ascending: NDArray[np.int64]) -> None:
        if len(ascending) and (ascending[0] < 0 or ascending[-1] >= self.snapshot.rows):
            raise SourceError(f"sample ids {ascending[0]}..{ascending[-1]} are not within 0..{self.snapshot.rows - 1}")


def _holds(wanted: NDArray[np.int64] | None, start: int, end: int) -> bool:
    """Whether any of the ascending ids lies in `[start, end)`; None stands for all ids."""
    if wanted is None:
        return True
    low, high = np.searchsorted(wanted, [start, end])
    return bool(low < high)
