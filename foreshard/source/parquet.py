"""Row groups of one verified Parquet file, as a stream of batches of bounded size."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from foreshard.errors import SourceError
from foreshard.source.verified import CACHE_BYTES, VerifiedFile

LOAD_BYTES: Final = 64 << 20
"""Compressed bytes of a row group that is held as a whole; a larger one is streamed."""

_JOINT_BYTES: Final = 16 << 20
"""Compressed bytes of small row groups that are read at once."""

_STREAM_BUFFER: Final = 1 << 20
_PROBE_ROWS: Final = 1024
_MAX_ROWS: Final = 1 << 20


@contextmanager
def readable(where: str) -> Generator[None]:
    """Turn errors of the Parquet reader into ours.

    Raises:
        SourceError: the file is not readable as Parquet.
    """
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise SourceError(f"{where} is not readable as Parquet ({reason}); write it again or remove it") from error


class ParquetRows:
    """Reads row groups of a file, each once, as batches.

    Args:
        file: the file.
        columns: names of the columns wanted, all if None.

    Raises:
        SourceError: the file is not readable as Parquet, or its bytes are not what they were.
    """

    def __init__(self, file: VerifiedFile, columns: Sequence[str] | None = None) -> None:
        self._file = file
        handle: Any = file  # the stub asks for an `IOBase`; what is called is `read`, `seek`, `tell` and `closed`
        self._source = pa.PythonFile(handle, mode="r")
        self._columns = list(columns) if columns is not None else None
        with readable(file.where):
            # Checksums of pages tell what was damaged before the snapshot was taken.
            self._held = pq.ParquetFile(self._source, pre_buffer=False, page_checksum_verification=True)
        self.schema: pa.Schema = self._held.schema_arrow.remove_metadata()
        self.rows: int = self._held.metadata.num_rows
        self._leaves = self._wanted_leaves()
        self._row_bytes = 0.0  # of the last batch; unknown yet

    def _wanted_leaves(self) -> list[int]:
        paths = [self._held.schema.column(leaf).path for leaf in range(self._held.metadata.num_columns)]
        if self._columns is None:
            return list(range(len(paths)))
        return [
            leaf
            for leaf, path in enumerate(paths)
            if any(path == name or path.startswith(f"{name}.") for name in self._columns)
        ]

    def group_rows(self) -> list[int]:
        """Return the number of rows of each row group."""
        meta = self._held.metadata
        return [meta.row_group(group).num_rows for group in range(meta.num_row_groups)]

    def read(self, groups: Sequence[int], batch_bytes: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield (row group, batch) for the row groups given.

        Memory is bounded by `LOAD_BYTES`, a block and a page per column, and a batch, however large a row group is.

        Args:
            groups: row groups, ascending.
            batch_bytes: about how many bytes a batch has in memory; one row at least.
        """
        for load in self._loads(groups):
            ranges = [span for group in load for span in self._ranges(group)]
            with readable(self._file.where):
                if sum(end - start for start, end in ranges) <= LOAD_BYTES:
                    self._file.hold(ranges)
                    parquet = self._held
                else:
                    self._file.hold([])
                    self._file.stream(max(1, len(self._leaves)))
                    parquet = self._streamed()
                for group in load:
                    for batch in self._batches(parquet, group, batch_bytes):
                        yield group, batch

    def _streamed(self) -> pq.ParquetFile:
        """Return a reader that takes column chunks piece by piece instead of whole."""
        buffer = max(1 << 16, min(_STREAM_BUFFER, CACHE_BYTES // max(1, len(self._leaves))))
        return pq.ParquetFile(
            self._source,
            metadata=self._held.metadata,
            pre_buffer=False,
            buffer_size=buffer,
            page_checksum_verification=True,
        )

    def _loads(self, groups: Sequence[int]) -> Iterator[list[int]]:
        """Cut row groups into runs of `_JOINT_BYTES` at most; a larger one comes alone."""
        load: list[int] = []
        held = 0
        for group in groups:
            size = sum(end - start for start, end in self._ranges(group))
            if load and held + size > min(_JOINT_BYTES, LOAD_BYTES):
                yield load
                load, held = [], 0
            load.append(group)
            held += size
        if load:
            yield load

    def _ranges(self, group: int) -> list[tuple[int, int]]:
        """Return the byte ranges of the wanted column chunks of a row group."""
        meta = self._held.metadata.row_group(group)
        ranges: list[tuple[int, int]] = []
        for leaf in self._leaves:
            chunk = meta.column(leaf)
            start = chunk.data_page_offset
            if chunk.has_dictionary_page and chunk.dictionary_page_offset:
                start = min(start, chunk.dictionary_page_offset)
            ranges.append((start, start + chunk.total_compressed_size))
        return ranges

    def _batches(self, parquet: pq.ParquetFile, group: int, batch_bytes: int) -> Iterator[pa.RecordBatch]:
        """Yield a row group's batches.

        What rows take in memory cannot be told from the footer, as values of a dictionary are stored once and then
        repeated. So the first batch is small, and each batch tells the size of the next.
        """
        meta = self._held.metadata.row_group(group)
        if not self._row_bytes:
            stored = sum(meta.column(leaf).total_uncompressed_size for leaf in self._leaves)
            size = min(_PROBE_ROWS, _batch_rows(batch_bytes, stored / max(1, meta.num_rows)))
        else:
            size = _batch_rows(batch_bytes, self._row_bytes)
        for batch in parquet.iter_batches(size, row_groups=[group], columns=self._columns):
            if batch.num_rows:
                self._row_bytes = max(1.0, batch.nbytes / batch.num_rows)
            yield batch
            parquet.reader.set_batch_size(_batch_rows(batch_bytes, self._row_bytes))


def _batch_rows(batch_bytes: int, row_bytes: float) -> int:
    return max(1, min(_MAX_ROWS, int(batch_bytes / max(1.0, row_bytes))))
