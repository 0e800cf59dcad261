"""Arrow columns as numbers: what profile and feature sketch know of a column, whatever its type."""

from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from foreshard.errors import SourceError

if TYPE_CHECKING:
    Column = pa.ChunkedArray[Any]  # generic in the stubs only
else:
    Column = pa.ChunkedArray

Kind = Literal["boolean", "numeric", "temporal", "category", "other"]

MAX_CLASSES: Final = 50
"""More distinct target values than this are binned (numbers) or lumped (categories)."""

TARGET_BINS: Final = 4
"""Quantile bins of a continuous target: quartiles keep enough rows a class on every node."""


def kind_of(dtype: pa.DataType) -> Kind:
    """Return how values of an Arrow type are treated; "other" (lists, binary, ...) is left out of sketches."""
    types = pa.types
    if types.is_dictionary(dtype):
        inner = kind_of(dtype.value_type)
        return "category" if inner != "other" else "other"
    if types.is_boolean(dtype):
        return "boolean"
    if types.is_integer(dtype) or types.is_floating(dtype) or types.is_decimal(dtype):
        return "numeric"
    if types.is_temporal(dtype) and not types.is_interval(dtype):
        return "temporal"
    return "category" if types.is_string(dtype) or types.is_large_string(dtype) else "other"


def as_floats(column: Column) -> NDArray[np.float64]:
    """Return a boolean, numeric or temporal column as float64; nulls and infinities become NaN.

    Temporal values count their own unit (days, microseconds, ...).
    """
    dtype = column.type
    if pa.types.is_temporal(dtype):
        column = column.cast(pa.int32() if dtype.bit_width == 32 else pa.int64())  # noqa: PLR2004 - bits
    if pa.types.is_boolean(dtype):
        column = column.cast(pa.int8())
    values = np.array(column.cast(pa.float64(), safe=False).to_numpy(), np.float64)
    values[~np.isfinite(values)] = np.nan
    return values


def category_ranks(column: Column) -> tuple[NDArray[np.int64], pa.Table]:
    """Return each row's rank of its category by frequency (0 = most frequent, -1 = null), and the categories.

    The table has the columns `value` and `count`, in rank order; equally frequent categories are in order of value.
    """
    codes, values = _encoded(column)
    counts = np.bincount(codes + 1, minlength=len(values) + 1)[1:]
    table = pa.table({"value": values, "count": pa.array(counts)})
    order = np.asarray(pc.sort_indices(table, sort_keys=[("count", "descending"), ("value", "ascending")]), np.int64)
    rank = np.empty(len(order) + 1, np.int64)
    rank[order] = np.arange(len(order))
    rank[-1] = -1
    return rank[codes], table.take(order).filter(pc.field("count") > 0)


def numbers(column: Column, kind: Kind) -> NDArray[np.float64]:
    """Return any sketchable column as float64 with NaN for null; a category becomes log(1 + its frequency rank)."""
    if kind != "category":
        return as_floats(column)
    ranks = category_ranks(column)[0].astype(np.float64)
    ranks[ranks < 0] = np.nan
    return np.log1p(ranks)


def standardise(values: NDArray[np.float64]) -> NDArray[np.float32] | None:
    """Return values with mean 0 and standard deviation 1, clipped at +-5, NaN replaced by 0; None if constant."""
    known = np.isfinite(values)
    if not known.any():
        return None
    largest = float(np.abs(values[known]).max())
    if largest == 0:
        return None
    scaled = np.where(known, values, 0.0) / largest  # squares of huge values would overflow
    mean = float(scaled[known].mean())
    spread = float(scaled[known].std())
    if spread <= 1e-12 * max(abs(mean), 1e-300):  # rounding noise of a constant column
        return None
    return np.where(known, np.clip((scaled - mean) / spread, -5.0, 5.0), 0.0).astype(np.float32)


def class_codes(column: Column, name: str) -> NDArray[np.int32]:
    """Return dense class codes of a target column, in order of value.

    Numbers with more than 50 distinct values, and floats that are not all whole, become quantile bins; categories
    beyond the 49 most frequent share one class.

    Raises:
        SourceError: nulls or NaN, or a type that has no classes.
    """
    kind = kind_of(column.type)
    if kind == "other":
        raise SourceError(f"target column {name!r} has type {column.type}; use an integer, boolean, float or string")
    missing = column.null_count
    if pa.types.is_floating(column.type):
        missing = int(np.isnan(as_floats(column)).sum())
    if missing:
        raise SourceError(f"target column {name!r} has {missing} nulls, NaN or infinities; drop or fill those rows")
    if kind == "category":
        return _category_codes(column)
    values = as_floats(column)
    distinct, codes = np.unique(values, return_inverse=True)
    if len(distinct) <= MAX_CLASSES and (distinct == np.rint(distinct)).all():
        return codes.astype(np.int32)
    edges = np.unique(np.quantile(values, np.arange(1, TARGET_BINS) / TARGET_BINS))
    return np.unique(np.searchsorted(edges, values, side="left"), return_inverse=True)[1].astype(np.int32)


def _category_codes(column: Column) -> NDArray[np.int32]:
    ranks, categories = category_ranks(column)
    kept = len(categories) if len(categories) <= MAX_CLASSES else MAX_CLASSES - 1
    by_value = np.asarray(pc.sort_indices(categories.column("value").slice(0, kept)), np.int64)
    code = np.full(len(categories), kept, np.int32)
    code[by_value] = np.arange(kept, dtype=np.int32)
    return code[ranks]


def _encoded(column: Column) -> tuple[NDArray[np.int64], Any]:
    """Return codes (-1 = null) and the Arrow array of the values they stand for."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    encoded: Any = column.dictionary_encode().unify_dictionaries().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.chunk(0)
    return np.asarray(encoded.indices.cast(pa.int64()).fill_null(-1).to_numpy(), np.int64), encoded.dictionary
