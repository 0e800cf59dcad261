"""Parses columns of integers and texts without ever failing: what cannot be parsed is masked, with the reason."""

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from foreshard.errors import LogError

Column: TypeAlias = Any
"""An Arrow array; pyarrow's stubs do not know what may be done with one."""

pc: Any = pyarrow.compute
"""Arrow's functions, whose stubs refuse most of what they take."""

Fault: TypeAlias = tuple[str, NDArray[np.bool_]]

_UINT64_MAX: Final = str(2**64 - 1)


@dataclass(frozen=True)
class Parsed:
    """A parsed column of n values.

    Attributes:
        values: shape (n,), without nulls; anything where a fault is.
        faults: (reason, bool mask of shape (n,)) for each reason that was looked for.
        odd: the same for values that are valid, and still worth a word.
    """

    values: Column
    faults: tuple[Fault, ...]
    odd: tuple[Fault, ...] = ()


def integers(column: Column, what: str) -> Parsed:
    """Parse integers from 0 to 2^64 - 1, from integers, floats without a fraction, or decimal digits (`10`, `10.0`).

    Args:
        column: integers, floats, texts or binary texts.
        what: the column's role, for the reasons.

    Returns:
        uint64 values; faults are `missing`, `negative` and `no integer`.

    Raises:
        LogError: the column is of another type.
    """
    column = plain(column)
    missing = _flags(pc.is_null(column))
    if pa.types.is_integer(column.type):
        wrong = np.zeros(len(column), bool)
        signed = pa.types.is_signed_integer(column.type)
        clean = column.cast(pa.int64() if signed else pa.uint64())
        negative = _flags(pc.less(clean, 0)) if signed else wrong  # Arrow compares unsigned ones as int64, and fails
        clean = pc.if_else(pa.array(~(missing | negative)), clean, pa.scalar(0, clean.type)).cast(pa.uint64())
    elif pa.types.is_floating(column.type):
        numbers = np.asarray(column.to_numpy(zero_copy_only=False), np.float64)
        negative = numbers < 0
        with np.errstate(invalid="ignore"):
            wrong = ~negative & ~missing & ~((numbers < 2**63) & (np.floor(numbers) == numbers))
        clean = pa.array(np.where(negative | wrong | missing, 0, numbers).astype(np.uint64))
    elif _is_text(column.type):
        clean, empty, negative, wrong = _digits(column)
        missing |= empty
    else:
        raise LogError(f"a column of {column.type} cannot be {what}s; choose one of integers or texts")
    return Parsed(clean, ((f"{what} missing", missing), (f"{what} negative", negative), (f"{what} no integer", wrong)))


def texts(column: Column, what: str) -> Parsed:
    """Parse texts in UTF-8, not empty; numbers are spelled in digits, bytes of a fixed length that are no text in hex.

    Raises:
        LogError: the column is of another type than texts or numbers.
    """
    column = plain(column)
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        column = column.cast(pa.string())
    if not _is_text(column.type):
        raise LogError(f"a column of {column.type} cannot be {what}s; choose one of integers or texts")
    digests = pa.types.is_fixed_size_binary(column.type)
    column = column.cast(pa.binary())  # texts of a Parquet file need not be UTF-8: nobody has looked at them yet
    missing = _flags(pc.is_null(column)) | _flags(pc.equal(pc.binary_length(column), 0))
    wrong = np.zeros(len(column), bool)
    column = pc.if_else(pc.is_valid(column), column, b"")
    try:
        column = column.cast(pa.string())
    except pa.ArrowInvalid:  # which of them cannot be told by Arrow
        decoded = [_decode(value, digest=digests) for value in column.to_pylist()]
        wrong = np.array([value is None for value in decoded], bool)
        column = pa.array([value or "" for value in decoded], pa.string())
    return Parsed(column, ((f"{what} missing", missing), (f"{what} not UTF-8", wrong)))


def plain(column: Column) -> Column:
    """Return the column without dictionary encoding, with 32-bit offsets; decimals as texts."""
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage  # a UUID
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.string())
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return column.cast(pa.binary())
    return column.cast(pa.string()) if pa.types.is_null(kind) else column


def only_digits(column: Column, most: int) -> bool:
    """Return whether every value of a column of binary texts is 1 to `most` decimal digits."""
    if not len(column) or column.null_count:
        return False
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
    lengths = np.diff(offsets)
    if lengths.min() < 1 or lengths.max() > most:
        return False
    text = np.frombuffer(column.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    return bool(((text >= ord("0")) & (text <= ord("9"))).all())


def matches(column: Column, pattern: str) -> NDArray[np.bool_]:
    """Return which texts match a regular expression, shape (n,); nulls do not."""
    return _flags(pc.match_substring_regex(column, pattern))


def _digits(column: Column) -> tuple[Column, NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the numbers, and which are empty, negative, or no integers."""
    column = column.cast(pa.binary())
    if only_digits(column, 19):  # nearly always; the expressions below take ten times as long
        none = np.zeros(len(column), bool)
        return column.cast(pa.string()).cast(pa.uint64()), none, none, none
    column = pc.replace_substring_regex(column, r"^(-?[0-9]+)\.0*$", r"\1")
    empty = _flags(pc.equal(pc.binary_length(column), 0))
    right = matches(column, "^0*[0-9]{1,19}$")
    if not right.all():
        negative = matches(column, "^-[0-9]+$")
        large = matches(column, "^0*[0-9]{20}$") & ~right
        if large.any():  # up to 2^64 - 1, compared as texts of one length
            stripped = pc.utf8_ltrim(pc.if_else(pa.array(large), column, b"").cast(pa.string()), "0")
            right |= large & _flags(pc.less_equal(stripped, _UINT64_MAX))
    else:
        negative = np.zeros(len(column), bool)
    clean = pc.if_else(pa.array(right), column, b"0").cast(pa.string())
    return clean.cast(pa.uint64()), empty, negative, ~(right | negative | empty | _flags(pc.is_null(column)))


def _decode(value: bytes, *, digest: bool) -> str | None:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return f"0x{value.hex()}" if digest else None


def _flags(array: Column) -> NDArray[np.bool_]:
    return np.array(array.fill_null(fill_value=False).to_numpy(zero_copy_only=False), bool)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind)
