"""Takes chunks out of rows that lie in pieces, copying each wide value once.

Bringing the pieces together first costs a copy of everything, which is much of what making a shard costs. Wide values
(images, documents) are therefore copied from where they lie; the other columns are brought together.
"""

from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.errors import SourceError

WIDE: Final = 8192
"""Mean bytes of a value from which on it is copied by itself: a step of Python costs as much as copying some KB."""

_OFFSETS: Final[dict[pa.DataType, type[np.signedinteger[Any]]]] = {
    pa.binary(): np.int32,
    pa.string(): np.int32,
    pa.large_binary(): np.int64,
    pa.large_string(): np.int64,
}


class Pieces:
    """Rows in pieces.

    Args:
        table: the rows, in as many pieces as they were read in.
    """

    def __init__(self, table: pa.Table) -> None:
        self.schema, self.nbytes = table.schema, table.nbytes
        wide = [name for name in table.column_names if _is_wide(table.column(name))]
        self._wide = {name: _WideColumn(table.column(name)) for name in wide}
        narrow = table.drop_columns(wide) if wide else table
        self._narrow = _in_one_piece(narrow) if narrow.num_columns else None

    def take(self, positions: NDArray[np.int64]) -> pa.RecordBatch:
        """Return rows as a record batch whose buffers hold nothing but their own values.

        Args:
            positions: shape (n,).
        """
        narrow = self._narrow.take(positions) if self._narrow is not None else None
        if not self._wide and narrow is not None:
            return narrow
        columns = {name: column.take(positions) for name, column in self._wide.items()}
        if narrow is not None:
            columns |= dict(zip(narrow.schema.names, narrow.columns, strict=True))
        in_order: list[Any] = [columns[name] for name in self.schema.names]
        return pa.RecordBatch.from_arrays(in_order, schema=self.schema)


class _WideColumn:
    """A column of bytes or text, each value to be copied by itself."""

    def __init__(self, column: "pa.ChunkedArray[Any]") -> None:
        self._type: pa.DataType = column.type
        self._dtype = _OFFSETS[self._type]
        chunks: list[Any] = [chunk for chunk in column.chunks if len(chunk)]
        rows = [len(chunk) for chunk in chunks]
        self._piece = np.repeat(np.arange(len(chunks)), rows).tolist()
        offsets = [_offsets(chunk, self._dtype) for chunk in chunks]
        self._start = np.concatenate([each[:-1] for each in offsets]).astype(np.int64)
        self._length = np.concatenate([np.diff(each) for each in offsets]).astype(np.int64)
        self._data = [memoryview(chunk.buffers()[2] or b"").cast("B") for chunk in chunks]
        self._valid: NDArray[np.bool_] | None = None
        if column.null_count:
            self._valid = np.concatenate([np.asarray(chunk.is_valid()) for chunk in chunks])
            self._length[~self._valid] = 0  # what lies under a null is nobody's value

    def take(self, positions: NDArray[np.int64]) -> "pa.Array[Any]":
        length = self._length[positions]
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(length)])
        if ends[-1] > np.iinfo(self._dtype).max:
            raise SourceError(f"a chunk holds {ends[-1]} bytes of {self._type}; lower reshard.max_chunk_rows")
        offsets = ends.astype(self._dtype)
        target: Any = pa.allocate_buffer(int(offsets[-1]))
        view = memoryview(target).cast("B")
        places = zip(
            positions.tolist(), self._start[positions].tolist(), length.tolist(), offsets[:-1].tolist(), strict=True
        )
        for position, start, size, at in places:
            view[at : at + size] = self._data[self._piece[position]][start : start + size]
        valid, nulls = None, 0
        if self._valid is not None and (nulls := int((~self._valid[positions]).sum())):
            valid = pa.py_buffer(np.packbits(self._valid[positions], bitorder="little").tobytes())
        buffers: Any = [valid, pa.py_buffer(offsets.tobytes()), target]
        return pa.Array.from_buffers(self._type, len(positions), buffers, nulls)


def _in_one_piece(table: pa.Table) -> pa.RecordBatch:
    # A batch takes several times as fast as a table.
    batches = table.combine_chunks().to_batches()
    if len(batches) > 1:
        raise SourceError(
            f"the rows of one shard take up {table.nbytes} bytes, more than Arrow holds in one piece of "
            f"{', '.join(table.column_names)}; lower reshard.max_chunk_rows"
        )
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


def _is_wide(column: "pa.ChunkedArray[Any]") -> bool:
    return column.type in _OFFSETS and len(column) > 0 and column.nbytes >= WIDE * len(column)


def _offsets(array: Any, dtype: type[np.generic]) -> NDArray[Any]:  # noqa: ANN401 - an array of bytes or text
    return np.frombuffer(array.buffers()[1], dtype)[array.offset : array.offset + len(array) + 1]
