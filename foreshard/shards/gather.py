"""Rows of the source, in any grouping, in bounded memory: every row group is read once where possible.

A plan may scatter the rows of one source file over all shards. Rows are then spooled: one pass over the source deals
them to one file for each group of shards on local disk, which is read back when its shards are made. Where each group's
rows lie close together in the source, or fit memory, they are read directly.
"""

import logging
import shutil
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.ahead import ahead
from foreshard.errors import SourceError
from foreshard.shards.codec import SAMPLE_ID, shard_schema
from foreshard.shards.dictionaries import Dictionaries
from foreshard.shards.pieces import Pieces
from foreshard.shards.spool import Spool, spool_folder
from foreshard.source import SourceReader

_WINDOW_ROWS: Final = 1 << 16
_READ_TWICE: Final = 1.3
"""Rows read over rows there are, up to which reading each group's rows from the source costs less than spooling all."""

_BATCH: Final = 16 << 20
_HEADROOM: Final = 1.1
_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rows:
    """The rows of one group of shards, ascending by sample id: in memory, or in a spool file.

    Attributes:
        ids: (r,) int64.
        table: the rows, `shard_schema`; None if they lie in `file`.
        file: path of Arrow IPC streams of them, one after another.
    """

    ids: NDArray[np.int64]
    table: pa.Table | None = None
    file: str | None = None

    def load(self) -> Pieces:
        """Return the rows, to take chunks from.

        Raises:
            SourceError: some are missing.
        """
        return Pieces(_whole(self._table(), self.ids))

    def _table(self) -> pa.Table:
        if self.table is not None:
            return self.table
        assert self.file is not None
        parts: list[pa.Table] = []
        with pa.memory_map(self.file) as raw:
            while raw.tell() < raw.size():
                with pa.ipc.open_stream(raw) as stream:
                    parts.append(stream.read_all())
        return pa.concat_tables(parts)


class PhysicalRows:
    """Reads the rows of a snapshot as chunks hold them.

    Args:
        reader: the snapshot, all columns.
        dictionaries: of its dictionary columns.

    Attributes:
        schema: of the rows, `sample_id` last.
    """

    def __init__(self, reader: SourceReader, dictionaries: Dictionaries) -> None:
        self.schema = shard_schema(reader.snapshot.schema)
        self._reader, self._dictionaries = reader, dictionaries

    @cached_property
    def row_bytes(self) -> float:
        """Bytes of a row in memory, estimated from the source's first rows."""
        for _, table in self._reader.scan():
            return table.nbytes / table.num_rows + 8
        raise SourceError(f"source {self._reader.snapshot.url} has no row; there is nothing to materialise")

    def read(self, wanted: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], pa.Table]]:
        """Yield the rows of ascending ids, repeats included, with these ids, scan by scan."""
        names = self._reader.snapshot.schema.names
        for start, table in ahead(self._reader.scan(wanted=wanted, batch_bytes=_BATCH)):
            low, high = np.searchsorted(wanted, [start, start + table.num_rows])
            ids = wanted[low:high]
            rows = self._dictionaries.encode(table.select(names))
            if not np.array_equal(ids, np.arange(start, start + table.num_rows)):
                rows = rows.take(ids - start)
            yield ids, rows.append_column(self.schema.field(SAMPLE_ID), pa.chunked_array([pa.array(ids)]))


@contextmanager
def gather(
    source: PhysicalRows, groups: Sequence[NDArray[np.int64]], spool: Path | None = None
) -> Generator[Iterator[Rows]]:
    """Yield an iterator over the rows of groups of shards, in order; spool files live until the block ends.

    Args:
        source: where the rows are.
        groups: distinct sample ids of each group, ascending.
        spool: folder for spool files; the system's temporary folder if None.

    Raises:
        SourceError: the source does not have the rows any more.
    """
    if not _must_spool(groups, source.row_bytes, spool):
        yield (Rows(ids, table=_read(source, ids)) for ids in groups)
        return
    with spool_folder(spool or Path(tempfile.gettempdir())) as folder:
        files = [str(folder / f"{number}.arrows") for number in range(len(groups))]
        _deal(source, groups, files)
        pa.default_memory_pool().release_unused()  # what dealing took is not what making takes
        yield (Rows(ids, file=file) for ids, file in zip(groups, files, strict=True))


def _must_spool(groups: Sequence[NDArray[np.int64]], row_bytes: float, spool: Path | None) -> bool:
    windows = [np.unique(ids // _WINDOW_ROWS) for ids in groups]
    touched = sum(len(each) for each in windows)
    if touched <= _READ_TWICE * len(np.unique(np.concatenate(windows))):
        return False
    wanted = int(sum(len(ids) for ids in groups) * row_bytes * _HEADROOM)
    folder = spool or Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free
    if wanted > free:
        _log.warning(
            "%s has %d bytes free and the rows to rearrange need %d: the source is read %d times instead of once; give "
            "a larger folder in TMPDIR",
            folder,
            free,
            wanted,
            len(groups),
        )
    return wanted <= free


def _read(source: PhysicalRows, ids: NDArray[np.int64]) -> pa.Table:
    parts = [rows for _, rows in source.read(ids)]
    return pa.concat_tables(parts) if parts else source.schema.empty_table()


def _deal(source: PhysicalRows, groups: Sequence[NDArray[np.int64]], files: list[str]) -> None:
    """Append every row to the file of its group, in one pass over the source."""
    # A sample may be in several groups: in a chunk of the layout, and in retired ones.
    wanted = np.concatenate(groups)
    by_id = np.argsort(wanted, kind="stable")
    wanted = wanted[by_id]
    group_of = np.repeat(np.arange(len(files), dtype=np.int32), [len(ids) for ids in groups])[by_id]
    at = 0
    with Spool(files, source.schema) as spool:
        for ids, rows in source.read(wanted):
            group = group_of[at : at + len(ids)]
            at += len(ids)
            order = np.argsort(group, kind="stable")
            dealt = rows.take(order).combine_chunks()
            bounds = np.flatnonzero(np.diff(group[order], prepend=-1))
            for start, end in zip(bounds.tolist(), [*bounds[1:].tolist(), len(order)], strict=True):
                spool.add(int(group[order[start]]), dealt.slice(start, end - start))


def _whole(rows: pa.Table, ids: NDArray[np.int64]) -> pa.Table:
    if rows.num_rows != len(ids):
        raise SourceError(
            f"the source gave {rows.num_rows} of {len(ids)} rows; its files have changed since the snapshot: sources "
            "are immutable, put them back and add files instead"
        )
    return rows
