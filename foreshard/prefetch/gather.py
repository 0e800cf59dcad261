"""Gathers the rows of a batch out of the arena, column by column, whatever number of chunks they lie in.

Columns of fixed width, booleans, strings and binaries are gathered by array operations over all rows at once; their
cost does not depend on how many chunks a batch touches. Nested columns and compressed buffers are
decoded chunk by chunk by Arrow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.errors import CorruptDataError
from foreshard.prefetch.arena import Arena, Payload
from foreshard.prefetch.recycling import Recycler
from foreshard.shards.codec import decode_chunk
from foreshard.shards.dictionaries import Dictionaries

COMPRESSED: Final = -2
"""Place of a buffer that its chunk holds compressed."""

_WIDTHS: Final = (1, 2, 4, 8)
_TOGETHER: Final = 1 << 17  # values of several columns that are gathered at once
_SHORT: Final = 64  # bytes of a value up to which an index per byte is quicker than a copy per value


@dataclass(frozen=True)
class _Column:
    """How one column is gathered.

    Attributes:
        name: the column.
        kind: `fixed`, `bits`, `text` or `nested`.
        width: bytes of a value, or of an offset of `text`.
        first: position of its first buffer in a payload's places; -1 if nested.
        physical: its type in a chunk.
        values: its dictionary, None without.
        logical: its type in a batch.
    """

    name: str
    kind: str
    width: int
    first: int
    physical: pa.DataType
    values: Any
    logical: pa.DataType

    @property
    def buffers(self) -> int:
        """How many places it has."""
        return {"nested": 0, "text": 3}.get(self.kind, 2)


class Gatherer:
    """Knows how the chunks of a layout lie in memory.

    Args:
        physical: schema of the chunks' record batches.
        logical: schema that users see.
        columns: names of the columns of a batch, in order.
        dictionaries: the snapshot's.

    Attributes:
        schema: of a batch.
        buffers: places of a payload.
    """

    def __init__(
        self,
        physical: pa.Schema,
        logical: pa.Schema,
        columns: Sequence[str],
        dictionaries: Dictionaries,
    ) -> None:
        self._physical, self._dictionaries = physical, dictionaries
        self._memory = Recycler()
        self.schema = pa.schema([logical.field(name) for name in columns])
        self._columns: list[_Column] = []
        self.buffers = 0
        values = dictionaries.values
        for name in columns:
            kind, seen = physical.field(name).type, logical.field(name).type
            how, width = _how(kind, seen)
            first = -1 if how == "nested" else self.buffers
            self._columns.append(_Column(name, how, width, first, kind, values.get(name), seen))
            self.buffers += self._columns[-1].buffers
        self._nested = [c.name for c in self._columns if c.kind == "nested"]
        self._positions = [physical.names.index(c.name) for c in self._columns]
        self._flat = [c for c in self._columns if c.kind != "nested"]
        self._firsts = np.array([c.first for c in self._flat], np.int64)
        kinds = sorted({(c.kind, c.width) for c in self._flat if c.kind != "text"})
        self._alike = [(*k, [c for c in self._flat if (c.kind, c.width) == k]) for k in kinds]

    def locate(self, raw: memoryview, batch: pa.RecordBatch) -> Payload:
        """Return a chunk's bytes with the places of its buffers.

        Args:
            raw: its bytes.
            batch: the same, decoded without copying, with the columns of the physical schema.
        """
        places = np.full(self.buffers, -1, np.int64)
        origin = pa.py_buffer(raw).address
        for column, position in zip(self._columns, self._positions, strict=True):
            if column.kind == "nested":
                continue
            for i, buffer in enumerate(batch.column(position).buffers()):
                if buffer is not None and buffer.size:
                    place = buffer.address - origin
                    places[column.first + i] = place if 0 <= place < len(raw) else COMPRESSED
        return Payload(raw, places)

    def gather(
        self,
        arena: Arena,
        slots: NDArray[np.int64],
        counts: NDArray[np.int64],
        rows: NDArray[np.int64],
        order: NDArray[np.int64] | None = None,
    ) -> pa.RecordBatch:
        """Return rows of several chunks, one chunk after the other or in a given order.

        Args:
            arena: holds the chunks.
            slots: shape (t,), where they lie.
            counts: shape (t,), rows wanted of each.
            rows: shape (r,), r = sum of counts, rows inside the chunks.
            order: shape (r,), which of them comes i-th; None to leave them as they are.

        Raises:
            CorruptDataError: a value lies outside its chunk or dictionary.
        """
        touch = np.repeat(np.arange(len(slots)), counts)
        fewer = arena.rows[slots]
        if fewer.any():  # other rows take the place of a chunk's own
            modulus = fewer[touch]
            rows = np.where(modulus, rows % np.maximum(modulus, 1), rows)
        places = np.ascontiguousarray(arena.places[slots].T)
        names = self._nested
        if (places == COMPRESSED).any():
            packed = [c for c in self._columns if (places[c.first : c.first + c.buffers] == COMPRESSED).any()]
            names = [*names, *(column.name for column in packed)]
        nested = self._decode(arena, slots, counts, rows, order, names) if names else {}
        if order is not None:
            touch, rows = touch[order], rows[order]
        values = self._values(arena, places, touch, rows, set(nested))
        nullable: NDArray[np.bool_] = np.any(places[self._firsts] >= 0, axis=1)
        some_nulls = {c.name for c, has in zip(self._flat, nullable.tolist(), strict=True) if has}
        arrays: list[Any] = []
        for column in self._columns:
            if column.name in nested:
                arrays.append(nested[column.name])
                continue
            valid = _validity(arena, places[column.first], touch, rows) if column.name in some_nulls else None
            if column.kind == "text":
                base, data = places[column.first + 1][touch], places[column.first + 2][touch]
                buffers = _text(arena, base, rows, column.width, data, valid, self._memory)
            else:
                buffers = [_buffer(values[column.name])]
            packed = None if valid is None else _buffer(np.packbits(valid, bitorder="little"))
            physical: Any = pa.Array.from_buffers(column.physical, len(rows), [packed, *buffers])
            arrays.append(physical if column.values is None else _with_dictionary(physical, column))
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _values(
        self,
        arena: Arena,
        places: NDArray[np.int64],
        touch: NDArray[np.int64],
        rows: NDArray[np.int64],
        without: set[str],
    ) -> dict[str, NDArray[Any]]:
        """Return the values of columns that are no text, those of one width in a few operations for all."""
        found: dict[str, NDArray[Any]] = {}
        together = max(_TOGETHER // max(len(rows), 1), 1)
        for kind, width, columns in self._alike:
            wanted = [column for column in columns if column.name not in without]
            for start in range(0, len(wanted), together):
                some = wanted[start : start + together]
                base = places[[column.first + 1 for column in some]]
                gathered = (_bits if kind == "bits" else _fixed)(arena, base, touch, rows, width)
                found |= {column.name: values for column, values in zip(some, gathered, strict=True)}
        return found

    def _decode(
        self,
        arena: Arena,
        slots: NDArray[np.int64],
        counts: NDArray[np.int64],
        rows: NDArray[np.int64],
        order: NDArray[np.int64] | None,
        names: list[str],
    ) -> dict[str, Any]:
        """Return columns that are taken chunk by chunk."""
        parts: list[pa.RecordBatch] = []
        ends = np.cumsum(counts)
        for slot, end, count in zip(slots.tolist(), ends.tolist(), counts.tolist(), strict=True):
            batch = decode_chunk(arena.chunk(slot), self._physical, self._dictionaries).select(names)
            take: Any = batch.take  # its stub refuses integer arrays that are not lists
            parts.append(take(pa.array(rows[end - count : end])))
        arrow: Any = pa  # its stubs lack concat_batches
        joined: Any = arrow.concat_batches(parts)
        joined = joined if order is None else joined.take(pa.array(order))
        return {name: joined.column(name) for name in names}


def _buffer(array: Any) -> pa.Buffer:  # noqa: ANN401 - numpy's arrays are buffers, its stubs for Python 3.11 do not say so
    return pa.py_buffer(array)


def _how(physical: pa.DataType, logical: pa.DataType) -> tuple[str, int]:
    """Return how a type is gathered, and the bytes of a value or offset."""
    types = pa.types
    if pa.types.is_nested(logical) or isinstance(logical, pa.BaseExtensionType) or types.is_null(physical):
        return "nested", 0
    if types.is_boolean(physical):
        return "bits", 1
    if types.is_string(physical) or types.is_binary(physical):
        return "text", 4
    if types.is_large_string(physical) or types.is_large_binary(physical):
        return "text", 8
    try:
        bits = physical.bit_width
    except ValueError:
        return "nested", 0
    return ("fixed", bits // 8) if bits and bits % 8 == 0 else ("nested", 0)


def _validity(
    arena: Arena, places: NDArray[np.int64], touch: NDArray[np.int64], rows: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return which rows hold a value; a chunk without a validity buffer (a negative place) has no nulls."""
    base = places[touch]
    found = arena.memory[np.maximum(base, 0) + (rows >> 3)]
    return ((found >> (rows & 7).astype(np.uint8)) & 1).astype(np.bool_) | (base < 0)


def _fixed(
    arena: Arena, base: NDArray[np.int64], touch: NDArray[np.int64], rows: NDArray[np.int64], width: int
) -> NDArray[Any]:
    """Return values of columns of one width; the first axis is that of the columns."""
    unit = next(w for w in reversed(_WIDTHS) if width % w == 0)
    many = width // unit
    first = np.take(base // unit, touch, axis=1)
    first += rows if many == 1 else rows * many
    return arena.view(unit)[first if many == 1 else first[:, :, None] + np.arange(many)]


def _bits(
    arena: Arena, base: NDArray[np.int64], touch: NDArray[np.int64], rows: NDArray[np.int64], _width: int
) -> list[NDArray[np.uint8]]:
    first = np.take(base, touch, axis=1)
    first += rows >> 3
    found = arena.memory[first] >> (rows & 7).astype(np.uint8)
    return list(np.packbits(found & 1, axis=1, bitorder="little"))


def _text(
    arena: Arena,
    base: Any,  # noqa: ANN401
    rows: Any,  # noqa: ANN401
    width: int,
    data: Any,  # noqa: ANN401
    valid: Any,  # noqa: ANN401
    memory: Recycler,
) -> list[pa.Buffer]:
    at = base // width + rows
    signed: Any = arena.view(width).view(f"i{width}")
    low, high = signed[at].astype(np.int64), signed[at + 1].astype(np.int64)
    if (low < 0).any() or (high < low).any():
        raise CorruptDataError("the offsets of a text column descend; materialise this layout's plan again")
    lengths = high - low
    if valid is not None:
        lengths[~valid] = 0  # what lies under a null is nobody's
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    offsets = np.zeros(len(rows) + 1, f"i{width}")
    offsets[1:] = ends
    begins = data + low
    if total <= _SHORT * len(rows):
        index = np.repeat(begins - (ends - lengths), lengths) + np.arange(total)
        return [_buffer(offsets), _buffer(arena.memory[index])]
    out: Any = memory.take(total)
    target, source = memoryview(out), arena.bytes
    at_out = 0
    for begin, length in zip(begins.tolist(), lengths.tolist(), strict=True):
        target[at_out : at_out + length] = source[begin : begin + length]
        at_out += length
    return [_buffer(offsets), _buffer(out)]


def _with_dictionary(codes: Any, column: _Column) -> Any:  # noqa: ANN401 - the stubs know no such array
    try:
        ordered = bool(getattr(column.logical, "ordered", False))
        return pa.DictionaryArray.from_arrays(codes, column.values, ordered=ordered)
    except (pa.ArrowInvalid, IndexError) as error:
        raise CorruptDataError(f"column {column.name!r} of a chunk does not fit its dictionary: {error}") from error
