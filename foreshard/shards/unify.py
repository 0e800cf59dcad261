"""Bring the dictionaries of a column's parts into one, streaming, and its indices onto that one."""

from typing import Any, Final

import numpy as np
import pyarrow as pa

from foreshard.errors import SourceError
from foreshard.shards.schema import DictionaryType, logical_type

_PENDING: Final = 1 << 16
"""Values gathered before they are merged, at least: merging hashes all values so far."""

_Array = Any


class Unifier:
    """Merges the dictionaries of one dictionary column in the order in which their values first appear.

    Args:
        path: the column, for errors.
        kind: its type.
    """

    def __init__(self, path: str, kind: DictionaryType) -> None:
        self._path, self._kind = path, kind
        self._type = logical_type(kind.value_type)
        self._most = 1 << _index_bits(kind.index_type)
        self._values: _Array = None
        self._pending: list[_Array] = []

    def add(self, dictionary: _Array) -> None:
        """Add the dictionary of one part.

        Raises:
            SourceError: see `finish`.
        """
        values = dictionary if self._type.equals(dictionary.type) else dictionary.cast(self._type)
        last = self._pending[-1] if self._pending else self._values
        if last is not None and _begins(last, values):
            return
        self._pending.append(values)
        if sum(map(len, self._pending)) >= max(_PENDING, len(self._values) if self._values is not None else 0):
            self._merge()

    def finish(self) -> "pa.Array[Any]":
        """Return the merged values.

        Raises:
            SourceError: they are more than the index type counts, contradict the order of an ordered dictionary, or
                are nested and differ between parts.
        """
        self._merge()
        return pa.array([], self._type) if self._values is None else self._values

    def _merge(self) -> None:
        pending, self._pending = self._pending, []
        for values in pending:  # one that only goes on where the other ends needs no hashing, whatever its type
            if self._values is None or _begins(values, self._values):
                self._values = values
            elif not _begins(self._values, values):
                break
        else:
            self._check_count()
            return
        if self._type.num_fields:
            raise SourceError(
                f"dictionary column {self._path!r} has nested values that differ between parts of the source; give all "
                "files the same dictionary, or write the column with its value type"
            )
        import pyarrow.compute as pc  # some 10 MiB, which a training job without text can do without

        merged = pc.unique(_hashable(pa.concat_arrays([self._values, *pending]))).view(self._type)
        self._values = merged
        self._check_count()
        for values in pending if self._kind.ordered else []:
            places = pc.index_in(_hashable(values), value_set=_hashable(merged)).to_numpy(zero_copy_only=False)
            if (np.diff(places) <= 0).any():
                raise SourceError(
                    f"ordered dictionary column {self._path!r} has categories in contradicting orders: one part has "
                    f"{_shown(values)}, all together give {_shown(merged)}; write all files with the same categories, "
                    "or the column with its value type"
                )

    def _check_count(self) -> None:
        if self._values is not None and len(self._values) > self._most:
            raise SourceError(
                f"dictionary column {self._path!r} has {len(self._values)} values over the whole source, but its "
                f"{self._kind.index_type} indices count {self._most}; write the files with int32 indices, or the "
                "column with its value type"
            )


def codes_of(array: _Array, values: _Array, name: str) -> "pa.Array[Any]":
    """Return a dictionary array's indices into other values, of its own index type.

    Args:
        array: a dictionary array.
        values: the snapshot's dictionary.
        name: the column, for errors.

    Raises:
        SourceError: the array's dictionary holds a value that is not among `values`.
    """
    import pyarrow.compute as pc

    own = array.dictionary
    if not values.type.equals(own.type):
        own = own.cast(values.type)
    if _begins(values, own):
        return array.indices
    places = None if values.type.num_fields else pc.index_in(_hashable(own), value_set=_hashable(values))
    if places is None or places.null_count:
        raise SourceError(
            f"column {name!r} holds values that are not in the snapshot's dictionary; its files have changed since "
            "the snapshot; sources are immutable, add files instead"
        )
    return places.cast(array.indices.type).take(array.indices)


def _begins(values: _Array, first: _Array) -> bool:
    return len(first) <= len(values) and _hashable(values.slice(0, len(first))).equals(_hashable(first))


def _hashable(values: _Array) -> _Array:
    """Return values as a type that Arrow hashes and that is equal only where bits are, as 0.0 and -0.0 are not."""
    kind: Any = values.type
    if pa.types.is_floating(kind) or pa.types.is_decimal32(kind) or pa.types.is_decimal64(kind):
        return values.view({16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[kind.bit_width])
    return values


def _index_bits(kind: Any) -> int:  # noqa: ANN401 - an integer type
    return kind.bit_width - pa.types.is_signed_integer(kind)


def _shown(values: _Array) -> str:
    most = 8
    text = ", ".join(repr(value.as_py()) for value in values[:most])
    return f"[{text}{', ...' if len(values) > most else ''}]"
