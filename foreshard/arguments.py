"""Checks of arguments that users give: numbers, whatever library they come from, are taken as Python's own."""

import math
import operator
from collections.abc import Iterable
from typing import SupportsFloat

from foreshard.errors import ConfigError


def whole_number(value: object, name: str, *, least: int | None = None) -> int:
    """Return an integer, NumPy's and others' too, as an int: what is kept of it can be written as JSON.

    Args:
        value: the argument.
        name: its name, for the error's message.
        least: the smallest that can be used; None if all can.

    Raises:
        ConfigError: it is no integer (a float or a bool, say), or below `least`.
    """
    try:
        # A truth value would be taken for 0 or 1.
        number = None if isinstance(value, bool) else operator.index(value)  # pyright: ignore[reportArgumentType]
    except TypeError:
        number = None
    if number is None:
        rounded = _rounded(value)
        raise ConfigError(
            f"{name} {value!r} is of type {type(value).__name__}; give an integer"
            + (f", such as {rounded}" if rounded is not None else "")
        )
    if least is not None and number < least:
        raise ConfigError(f"{name} {number} must be at least {least}")
    return number


def number_above_0(value: object, name: str) -> float:
    """Return a finite number above 0 as a float.

    Args:
        value: the argument.
        name: its name, for the error's message.

    Raises:
        ConfigError: it is none.
    """
    number = _as_float(value, name)
    if not 0 < number < math.inf:
        raise ConfigError(f"{name} {value} must be above 0 and finite")
    return number


def finite_number(value: object, name: str) -> float:
    """Return a finite number as a float.

    Args:
        value: the argument.
        name: its name, for the error's message.

    Raises:
        ConfigError: it is none.
    """
    number = _as_float(value, name)
    if not math.isfinite(number):
        raise ConfigError(f"{name} {number} must be finite")
    return number


def _as_float(value: object, name: str) -> float:
    if isinstance(value, (bool, str, bytes)) or not isinstance(value, SupportsFloat):
        raise ConfigError(f"{name} {value!r} is of type {type(value).__name__}; give a number")
    return float(value)


def _rounded(value: object) -> int | None:
    """Return the integer that a float stands for or is next below to; None if it is no float or no such number."""
    if isinstance(value, bool) or not isinstance(value, float) or not math.isfinite(value):
        return None
    return int(value)


def column_names(columns: object) -> tuple[str, ...] | None:
    """Return names of columns as a tuple, whatever sequence they come as; None for None.

    Args:
        columns: the argument `columns`.

    Raises:
        ConfigError: it is one name instead of a sequence, or has something else than names.
    """
    if columns is None:
        return None
    if isinstance(columns, str):
        raise ConfigError(f"columns {columns!r} is one name; give a tuple of names, ({columns!r},)")
    names = tuple(columns) if isinstance(columns, Iterable) else (columns,)
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise ConfigError(f"columns has {wrong[0]!r}, of type {type(wrong[0]).__name__}; give a tuple of names")
    return tuple(map(str, names))
