"""Columns of batches as NumPy arrays, of a type that follows from the column's alone."""

from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.errors import ConfigError

_NUMBERS: Final = {
    kind.id: np.dtype(name)
    for kind, name in (
        (pa.int8(), "i1"),
        (pa.int16(), "i2"),
        (pa.int32(), "i4"),
        (pa.int64(), "i8"),
        (pa.uint8(), "u1"),
        (pa.uint16(), "u2"),
        (pa.uint32(), "u4"),
        (pa.uint64(), "u8"),
        (pa.float16(), "f2"),
        (pa.float32(), "f4"),
        (pa.float64(), "f8"),
    )
}
"""By the id of Arrow's type; looked up for every column of every batch."""


def to_array(name: str, column: Any) -> NDArray[Any]:  # noqa: ANN401
    """Return a column as an array that may be written; see `Batch` for its type.

    Args:
        name: of the column, for messages.
        column: an Arrow array, shape (b,).

    Raises:
        ConfigError: it has nulls, which arrays of its type cannot hold.
    """
    dtype = _NUMBERS.get(column.type.id)
    if dtype is not None and not column.null_count:
        return _view(column, dtype)
    if isinstance(column, pa.ExtensionArray):
        return to_array(name, column.storage)
    types, kind = pa.types, column.type
    if types.is_dictionary(kind):
        return to_array(name, column.dictionary_decode())
    flat = types.is_integer(kind) or types.is_boolean(kind) or types.is_fixed_size_list(kind)
    if column.null_count and flat:
        raise ConfigError(
            f"column {name!r} ({kind}) has {column.null_count} nulls in a batch, which a NumPy array of its type "
            f"cannot hold; read batch.rows.column({name!r}), fill them there (fill_null) or in the source, or leave "
            "the column out by LoaderOptions(columns=...)"
        )
    if types.is_fixed_size_list(kind):
        values = to_array(name, column.flatten())
        return values.reshape(len(column), kind.list_size, *values.shape[1:])
    of_time = types.is_timestamp(kind) or types.is_duration(kind) or types.is_date64(kind)
    if of_time and not column.null_count:
        return _view(column, column[:0].to_numpy(zero_copy_only=False).dtype)
    return column.to_numpy(zero_copy_only=False)  # a copy


def _view(column: Any, dtype: np.dtype[Any]) -> NDArray[Any]:  # noqa: ANN401
    """Return values as they lie in Arrow's memory; a copy where that is not to be written, as in another process."""
    count, memory = len(column), column.buffers()[1]
    if not count:
        return np.empty(0, dtype)
    values = np.frombuffer(memory, dtype, count, column.offset * dtype.itemsize)
    return values if values.flags.writeable else values.copy()
