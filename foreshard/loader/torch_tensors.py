"""Batches as PyTorch tensors."""

from typing import Any

import pyarrow as pa
import torch  # noqa: TID253 - only who trains with PyTorch imports this module

from foreshard.errors import ConfigError
from foreshard.loader.batch import Batch


def to_tensors(batch: Batch) -> dict[str, Any]:
    """Return a batch as a dict of tensors of its columns, and of lists of what tensors cannot hold.

    A column's dtype follows from its type alone, never from a batch's values:

    | column | becomes |
    |---|---|
    | integers, floats | a tensor of the same type on the same memory; a float that is null is NaN |
    | booleans | a bool tensor |
    | dates, times, timestamps, durations | int32 or int64 in the column's own unit |
    | lists of a fixed size of these | a tensor of shape (b, size) |
    | strings, binaries | a list of `str` or `bytes`, None where it is null |
    | dictionaries | what their values become |

    Args:
        batch: the batch.

    Raises:
        ConfigError: a column has another type, or nulls that its tensor cannot hold.
    """
    return {name: _convert(name, batch.rows.column(name)) for name in batch}


def _convert(name: str, column: Any) -> Any:  # noqa: ANN401 - an Arrow array; a tensor or a list
    if isinstance(column, pa.ExtensionArray):
        return _convert(name, column.storage)
    if pa.types.is_dictionary(column.type):
        return _convert(name, column.dictionary_decode())
    return column.to_pylist() if _is_text(column.type) else _tensor(name, column)


def _tensor(name: str, column: Any) -> torch.Tensor:  # noqa: ANN401
    types, kind = pa.types, column.type
    copied = types.is_boolean(kind) or (types.is_floating(kind) and column.null_count)
    if column.null_count and not types.is_floating(kind):
        raise ConfigError(
            f"column {name!r} ({kind}) has {column.null_count} nulls in a batch, which its tensor cannot hold; give a "
            "transform that fills them, or leave the column out by LoaderOptions(columns=...)"
        )
    if copied:
        return torch.from_numpy(column.to_numpy(zero_copy_only=False))
    if types.is_temporal(kind) and not types.is_interval(kind):
        return torch.from_dlpack(column.view(pa.int64() if kind.bit_width == 64 else pa.int32()))  # noqa: PLR2004
    if types.is_integer(kind) or types.is_floating(kind):
        return torch.from_dlpack(column)
    if types.is_fixed_size_list(kind):
        values = _convert(name, column.flatten())
        if isinstance(values, torch.Tensor):
            return values.reshape(len(column), kind.list_size, *values.shape[1:])
    raise ConfigError(
        f"column {name!r} has the type {kind}, for which there is no tensor; give a transform that converts it, or "
        "leave the column out by LoaderOptions(columns=...)"
    )


def _is_text(kind: pa.DataType) -> bool:
    types: Any = pa.types  # its stubs lack the views
    return (
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
        or types.is_fixed_size_binary(kind)
    )
