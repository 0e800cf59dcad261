"""Columns of batches as NumPy arrays, of a type that follows from the column's and from whether it holds nulls."""

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

_EXACT: Final = 2**53
"""Up to it, float64 holds every integer."""


def to_array(name: str, column: Any) -> NDArray[Any]:  # noqa: ANN401
    """Return a column as an array that may be written; see `Batch` for its type.

    Args:
        name: of the column, for messages.
        column: an Arrow array, shape (b,).

    Raises:
        ConfigError: it has nulls, and an array that can hold those cannot hold its values.
    """
    dtype = _NUMBERS.get(column.type.id)
    if dtype is not None and not column.null_count:
        return _view(column, dtype)
    types, kind = pa.types, column.type
    coded = types.is_dictionary(kind)
    if coded or isinstance(kind, pa.BaseExtensionType):
        return to_array(name, column.dictionary_decode() if coded else column.storage)
    if types.is_integer(kind):
        return _with_nan(name, column)
    if types.is_fixed_size_list(kind):
        if column.null_count:
            raise _unfit(name, column, "lists that are null")
        values = to_array(name, column.flatten())
        return values.reshape(len(column), kind.list_size, *values.shape[1:])
    of_time = types.is_timestamp(kind) or types.is_duration(kind) or types.is_date64(kind)
    if of_time and not column.null_count:
        return _view(column, column[:0].to_numpy(zero_copy_only=False).dtype)
    return column.to_numpy(zero_copy_only=False)  # a copy


def _with_nan(name: str, column: Any) -> NDArray[np.float64]:  # noqa: ANN401
    """Return integers with nulls as float64, as pandas does; where digits would be lost, say so."""
    floats = column.to_numpy(zero_copy_only=False)
    if column.type.bit_width == 64:  # noqa: PLR2004 - narrower ones all fit
        whole = _view(column, _NUMBERS[column.type.id])[~np.isnan(floats)]
        if (whole > _EXACT).any() or (whole < -_EXACT).any():
            raise _unfit(name, column, "integers above 2**53 beside nulls")
    return floats


def _unfit(name: str, column: Any, what: str) -> ConfigError:  # noqa: ANN401
    return ConfigError(
        f"column {name!r} ({column.type}) has {column.null_count} nulls in a batch, and NumPy has no array for {what}; "
        f"read batch.rows.column({name!r}), fill them there (fill_null) or in the source, or leave the column out by "
        "LoaderOptions(columns=...)"
    )


def _view(column: Any, dtype: np.dtype[Any]) -> NDArray[Any]:  # noqa: ANN401
    """Return values as they lie in Arrow's memory; a copy where that is not to be written, as in another process."""
    count, memory = len(column), column.buffers()[1]
    if not count:
        return np.empty(0, dtype)
    values = np.frombuffer(memory, dtype, count, column.offset * dtype.itemsize)
    return values if values.flags.writeable else values.copy()
