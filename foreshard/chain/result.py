"""What a stage reports besides the objects it wrote: small enough for an event log."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

Scalar = str | int | float | bool | None

MAX_TABLE_ROWS: Final = 50
"""Rows of a table in a report; the whole table is in the object store."""


@dataclass(frozen=True)
class StageResult:
    """The report of one stage.

    Attributes:
        data_version: digest of what the stage wrote; equal digests mean that nothing changed downstream.
        metadata: figures by name.
        tables: small tables by name, each a list of rows.
        plots: PNG images by name.
    """

    data_version: str
    metadata: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])
    tables: Mapping[str, Sequence[Mapping[str, Scalar]]] = field(
        default_factory=dict[str, Sequence[Mapping[str, Scalar]]]
    )
    plots: Mapping[str, bytes] = field(default_factory=dict[str, bytes])


def digest_of(*parts: bytes | str) -> str:
    """Return 32 hexadecimal digits of SHA-256 over length-prefixed parts."""
    state = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        state.update(len(raw).to_bytes(8, "little"))
        state.update(raw)
    return state.hexdigest()[:32]


def head(table: pa.Table, rows: int = MAX_TABLE_ROWS) -> list[dict[str, Scalar]]:
    """Return the first rows of a table for a report; binary values become hexadecimal digits."""
    return [{name: scalar(value) for name, value in row.items()} for row in table.slice(0, rows).to_pylist()]


def scalar(value: Any) -> Scalar:  # noqa: ANN401 - whatever Arrow or JSON yields
    """Return a value as a report may hold it: bytes as hexadecimal digits, anything nested as text."""
    if isinstance(value, bytes):
        return value.hex()
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)
