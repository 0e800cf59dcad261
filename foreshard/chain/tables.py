"""Tables of any length in the object store: written and read a few rows at a time, so that none has to fit memory."""

import hashlib
import io
import mmap
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from foreshard.errors import CorruptDataError, ObjectNotFoundError
from foreshard.storage import ObjectStore

ROWS: Final = 1 << 20
"""Rows of a row group at most: what is held at a time, beside what is added at once."""


class TableWriter:
    """Collects a table as Parquet (zstd) in a temporary file; the same tables added give the same bytes.

    Args:
        schema: of the table.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self.rows = 0  # added so far
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._writer = pq.ParquetWriter(self._file, schema, compression="zstd")
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, table: pa.Table) -> None:
        """Append rows of the schema."""
        self.rows += table.num_rows
        self._waiting.append(table)
        self._waiting_rows += table.num_rows
        if self._waiting_rows >= ROWS:
            self._write()

    def finish(self, put: Callable[[memoryview], None]) -> str:
        """Hand on the bytes of the whole table, mapped from the file, and return the hexadecimal SHA-256 of them."""
        if self._waiting_rows:
            self._write()
        self._writer.close()
        self._file.flush()
        view = memoryview(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ))
        put(view)
        return hashlib.sha256(view).hexdigest()

    def close(self) -> None:
        """Give the file up; what was not finished is lost."""
        self._waiting.clear()
        self._writer.close()
        self._file.close()

    def _write(self) -> None:
        waiting = pa.concat_tables(self._waiting).unify_dictionaries()
        self._writer.write_table(waiting, row_group_size=ROWS)
        self._waiting, self._waiting_rows = [], 0


class StoredTable:
    """A Parquet object that is read row group by row group.

    Args:
        store: where it lies.
        key: its name there.

    Raises:
        ObjectNotFoundError: there is no such object.
        CorruptDataError: it is not Parquet.
    """

    def __init__(self, store: ObjectStore, key: str) -> None:
        self.key = key
        meta = store.head(key)
        if meta is None:
            raise ObjectNotFoundError(f"there is no object {key!r} in {store.url}")
        try:
            self._file = pq.ParquetFile(pa.PythonFile(_StoredFile(store, key, meta.size), "r"))
        except (pa.ArrowInvalid, OSError) as error:
            raise self._unreadable(error) from error

    @property
    def schema(self) -> pa.Schema:
        """The table's schema."""
        return self._file.schema_arrow

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self._file.metadata.num_rows

    def groups(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Return its rows, one row group at a time.

        Args:
            columns: those wanted; None for all.

        Raises:
            CorruptDataError: a row group cannot be decoded.
        """
        for number in range(self._file.num_row_groups):
            try:
                yield self._file.read_row_group(number, columns=None if columns is None else list(columns))
            except (pa.ArrowInvalid, OSError) as error:
                raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> CorruptDataError:
        return CorruptDataError(f"object {self.key!r} is not readable as Parquet ({error}); run its stage again")


class _StoredFile(io.RawIOBase):
    """An object as a file that can be read at any place."""

    def __init__(self, store: ObjectStore, key: str, size: int) -> None:
        super().__init__()
        self._store, self._key, self._size = store, key, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._size if size < 0 else min(self._at + size, self._size)
        raw = bytes(self._store.get_range(self._key, self._at, max(end, self._at)))
        self._at += len(raw)
        return raw
