"""Parses columns of times, and masks those before 0 or in the future."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.access.importers.horizon import FUTURE, NO_DATES, UNITS, Horizon
from foreshard.access.importers.values import Column, Parsed, matches, only_digits, pc, plain
from foreshard.errors import LogError

OUT_OF_ORDER: Final = "time before the request in front of it"

_1970: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DATE: Final = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}"
_LARGE: Final = 10**17
_NUMBER: Final = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"


class Clock:
    """Parses a log's times, batch by batch.

    Integers stay as they are; numbers with a fraction become integers of a smaller unit; dates become microseconds
    since 1970. Numbers are taken for dates in s, ms, us or ns since 1970 where `Horizon` finds that plausible;
    otherwise time counts from some other origin, and no time can be in the future.
    """

    def __init__(self) -> None:
        self._horizon = Horizon()
        self._dates: bool | None = None
        self._factor: int | None = None

    def parse(self, column: Column) -> Parsed:
        """Parse one batch of n times.

        Returns:
            int64 values; faults are `missing`, `unreadable`, `negative` and `in the future`; odd are those that
            contradict the guess that numbers are dates.

        Raises:
            LogError: the column is of a type that is no time.
        """
        column = plain(column)
        kind = column.type
        missing = np.array(pc.is_null(column).to_numpy(zero_copy_only=False), bool)
        declared = pa.types.is_timestamp(kind) or pa.types.is_date(kind)
        if declared:
            values, wrong = _micros(column)
        elif pa.types.is_duration(kind) or pa.types.is_time(kind):
            whole = column.cast(pa.int32()).cast(pa.int64()) if pa.types.is_time32(kind) else column.cast(pa.int64())
            values, wrong = np.array(whole.fill_null(0).to_numpy(), np.int64), missing & False
        elif pa.types.is_integer(kind):
            wide = pc.if_else(pc.is_valid(column), column, pa.scalar(0, kind)).to_numpy(zero_copy_only=False)
            wrong = (
                np.asarray(wide > np.uint64(np.iinfo(np.int64).max), bool)
                if wide.dtype == np.uint64
                else missing & False
            )
            values = wide.astype(np.int64)
        elif pa.types.is_floating(kind):
            values, wrong = self._scaled(np.asarray(column.to_numpy(zero_copy_only=False), np.float64))
        elif pa.types.is_string(kind) or pa.types.is_binary(kind):
            values, wrong = self._texts(column)
        else:
            raise LogError(f"a column of {kind} cannot be times; choose one of numbers, dates or texts")
        units = () if pa.types.is_duration(kind) or pa.types.is_time(kind) else self._units()
        return self._faults(values, missing, wrong & ~missing, None if declared or self._dates else units)

    def check(self, values: NDArray[np.int64]) -> Parsed:
        """Check times that are integers already."""
        none = np.zeros(len(values), bool)
        return self._faults(values, none, none, UNITS)

    def _faults(
        self,
        values: NDArray[np.int64],
        missing: NDArray[np.bool_],
        wrong: NDArray[np.bool_],
        units: Sequence[int] | None,
    ) -> Parsed:
        bad = missing | wrong
        negative = ~bad & (values < 0)
        future, odd = self._horizon.judge(values, ~(bad | negative), units)
        reasons = (("time missing", missing), ("time unreadable", wrong), ("time negative", negative), (FUTURE, future))
        return Parsed(pa.array(values), reasons, ((NO_DATES, odd),))

    def _units(self) -> Sequence[int]:
        """Return the units that numbers may be in: where they were multiplied, it is a multiple of that."""
        return tuple(unit for unit in UNITS if unit >= (self._factor or 1))

    def _texts(self, column: Column) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Parse numbers, or dates as ISO 8601, whichever are more in the first batch."""
        column = column.cast(pa.binary())
        if self._dates is not True and self._factor in (None, 1) and only_digits(column, 18):
            self._dates, self._factor = False, 1
            whole = column.cast(pa.string()).cast(pa.int64())
            return np.asarray(whole.to_numpy(), np.int64), np.zeros(len(column), bool)
        number = matches(column, _NUMBER)
        if self._dates is None and len(column):
            self._dates = int(matches(column, _DATE).sum()) > int(number.sum())
            self._factor = 1 if matches(column, "^[+-]?[0-9]+$")[number].all() else None
        if self._dates:
            return _dates(column)
        clean = pc.if_else(pa.array(number), column, b"0").cast(pa.string())
        values, wrong = self._scaled(np.asarray(clean.cast(pa.float64()).to_numpy(), np.float64))
        if self._factor == 1:  # a float cannot hold nanoseconds since 1970
            exact = matches(column, "^-?([0-9]{1,18}|[0-8][0-9]{18})$")
            whole = pc.if_else(pa.array(exact), clean, "0").cast(pa.int64())
            values = np.where(exact, np.asarray(whole.to_numpy(), np.int64), values)
        return values, wrong | ~number

    def _scaled(self, numbers: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return numbers as integers, of a unit small enough to keep their order, and which of them are none."""
        if self._factor is None and np.isfinite(numbers).any():
            median = float(np.median(numbers[np.isfinite(numbers)]))
            self._factor = next((factor for factor in (10**6, 10**3) if median * factor < _LARGE), 1)
        with np.errstate(invalid="ignore", over="ignore"):
            scaled = numbers * (self._factor or 1)
            wrong = ~(np.abs(scaled) < 2**63)
        return np.where(wrong, 0, scaled).astype(np.int64), wrong


def _micros(column: Column) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return timestamps and dates as microseconds since 1970, and which of them 64 bits cannot hold."""
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ms"))
    raw = np.asarray(column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False), np.int64)
    if column.type.unit == "ns":
        return raw // 1000, np.zeros(len(raw), bool)
    factor = {"s": 10**6, "ms": 10**3, "us": 1}[column.type.unit]
    wrong = (raw > 2**62 // factor) | (raw < -(2**62) // factor)
    return np.where(wrong, 0, raw) * factor, wrong


def _dates(column: Column) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return microseconds since 1970 of dates as ISO 8601, and which of them are none."""
    try:
        micros = column.cast(pa.string()).cast(pa.timestamp("us")).cast(pa.int64())
        return np.asarray(micros.fill_null(0).to_numpy(), np.int64), np.zeros(len(column), bool)
    except pa.ArrowInvalid:  # which of them, Arrow does not say; nor does it take zones here
        parsed = [_iso(value) for value in column.to_pylist()]
        wrong = np.array([value is None for value in parsed], bool)
        return np.array([value or 0 for value in parsed], np.int64), wrong


def _iso(value: bytes | None) -> int | None:
    """Return microseconds since 1970 of an ISO 8601 date; one without a zone is taken as UTC."""
    try:
        date = datetime.fromisoformat((value or b"").decode("ascii").strip())
    except (UnicodeDecodeError, ValueError):
        return None
    date = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
    return (date - _1970) // timedelta(microseconds=1)
