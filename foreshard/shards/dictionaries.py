"""One dictionary for each dictionary column of a snapshot, so that a chunk needs only the indices.

Chunks hold plain columns of the dictionary's index type and decode from their range alone. The values lie once beside
the manifest, and the codes mean the same in all chunks, as training wants.
"""

import base64
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import pyarrow as pa

from foreshard.errors import CorruptDataError
from foreshard.shards.schema import dictionary_leaves, logical_type, physical_type
from foreshard.shards.unify import Unifier, codes_of

_SCHEMA_KEY: Final = b"foreshard.schema"

_Array = Any
"""A `pyarrow.Array`; the stubs know neither the children of nested arrays nor how to make arrays of them."""


class Dictionaries:
    """The values of every dictionary in a snapshot's columns, those inside lists, structs and maps included.

    Immutable and safe to share between threads.

    Args:
        source: the snapshot's schema.
        values: the values of each dictionary, in the order of the columns, depth first inside a column.
    """

    def __init__(self, source: pa.Schema, values: Sequence[_Array] = ()) -> None:
        self._source = source
        self._values = tuple(values)
        self._columns: dict[str, tuple[Any, tuple[_Array, ...]]] = {}
        first = 0
        for field in source:
            last = first + sum(1 for _ in dictionary_leaves(field.type, field.name))
            if last > first:
                self._columns[field.name] = (field.with_type(logical_type(field.type)), self._values[first:last])
            first = last
        assert first == len(self._values), f"{first} dictionaries in the schema, {len(self._values)} given"
        self._last: tuple[pa.Schema, pa.Schema] | None = None

    @classmethod
    def none(cls, source: pa.Schema) -> "Dictionaries":
        """Return the dictionaries of a schema that has none; encoding and decoding then cost nothing."""
        return cls(source)

    @classmethod
    def from_tables(cls, source: pa.Schema, tables: Iterable[pa.Table | pa.RecordBatch]) -> "Dictionaries":
        """Gather the dictionaries of a snapshot, its values in order of first appearance.

        Each table's dictionaries are taken as they are, in their own order and with values that no row uses, so a
        dictionary that is the same everywhere stays exactly the same. Memory is bound by the dictionaries. Without
        dictionary columns no table is read.

        Args:
            source: the snapshot's schema.
            tables: its parts in order, of this schema (columns without dictionaries may be left out).

        Raises:
            SourceError: a column's values are more than its index type counts, contradict the order of an ordered
                dictionary, or are nested and differ between the parts.
        """
        names = [field.name for field in source if any(dictionary_leaves(field.type, ""))]
        if not names:
            return cls(source)
        unifiers = {
            name: [Unifier(path, kind) for path, kind in dictionary_leaves(source.field(name).type, name)]
            for name in names
        }
        for table in tables:
            for name in names:
                for chunk in _chunks(table.column(name)):
                    for unifier, dictionary in zip(unifiers[name], _dictionaries(chunk), strict=True):
                        unifier.add(dictionary)
        return cls(source, [unifier.finish() for name in names for unifier in unifiers[name]])

    def __bool__(self) -> bool:
        return bool(self._values)

    @property
    def values(self) -> dict[str, "pa.Array[Any]"]:
        """The values of each dictionary, by its path, e.g. `colour`, `tags.item`, `pairs.value`."""
        paths = [path for field in self._source for path, _ in dictionary_leaves(field.type, field.name)]
        return dict(zip(paths, self._values, strict=True))

    def to_bytes(self) -> bytes:
        """Return the dictionaries as one Arrow IPC file, the same bytes for the same values.

        It has one row and a column of lists for each dictionary, so it opens without copying or parsing.
        """
        lists: list[_Array] = []
        for values in self._values:
            clean: _Array = values.take(pa.array(range(len(values)), pa.int64()))  # holds nothing but its own values
            lists.append(pa.LargeListArray.from_arrays(pa.array([0, len(values)], pa.int64()), clean))
        text = base64.b64encode(self._source.serialize().to_pybytes())
        fields: list[Any] = [pa.field(path, a.type) for path, a in zip(self.values, lists, strict=True)]
        batch = pa.RecordBatch.from_arrays(lists, schema=pa.schema(fields, metadata={_SCHEMA_KEY: text}))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, batch.schema) as writer:
            if lists:
                writer.write_batch(batch)
        return sink.getvalue().to_pybytes()

    @classmethod
    def from_bytes(cls, raw: bytes | memoryview | pa.Buffer) -> "Dictionaries":
        """Open what `to_bytes` wrote, without copying the values.

        Raises:
            CorruptDataError: the bytes are something else.
        """
        try:
            file = pa.ipc.open_file(pa.BufferReader(raw))
            metadata: dict[bytes, bytes] = file.schema.metadata or {}
            source = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(metadata[_SCHEMA_KEY])))
            lists: list[_Array] = list(file.get_batch(0).columns) if file.num_record_batches else []
            for column in lists:
                column.validate()
            kinds = [kind for field in source for _, kind in dictionary_leaves(field.type, field.name)]
            values = [column.values for column in lists]
            if [logical_type(kind.value_type) for kind in kinds] != [array.type for array in values]:
                raise pa.ArrowInvalid("the dictionaries are not those of the schema")
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise CorruptDataError(f"{len(raw)} bytes are no dictionaries of a snapshot: {error!r}") from error
        return cls(source, values)

    def encode(self, rows: pa.Table) -> pa.Table:
        """Return source rows as chunks hold them, of the types of `shard_schema` (without `sample_id`).

        Indices whose dictionary is the beginning of the snapshot's are not copied.

        Args:
            rows: columns of the source, any of them.

        Raises:
            SourceError: a dictionary holds a value that the snapshot's does not.
        """
        columns: list[_Array] = []
        fields: list[Any] = []
        for name in rows.column_names:
            field = self._source.field(name)
            target = physical_type(field.type)
            column: _Array = rows.column(name)
            if not target.equals(column.type):
                leaves = self._columns[name][1] if name in self._columns else ()
                parts = [_encode(chunk, target, iter(leaves), name) for chunk in column.chunks]
                make: Any = pa.chunked_array  # the stub knows basic types alone
                column = make(parts, target)
            columns.append(column)
            fields.append(field.with_type(target))
        return pa.Table.from_arrays(columns, schema=pa.schema(fields))

    def decode(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return a chunk's rows as users see them, of the types of `logical_schema`; nothing is copied.

        Args:
            batch: columns of `shard_schema`, any of them.

        Raises:
            CorruptDataError: an index is beyond its dictionary.
        """
        if not self._columns:
            return batch
        columns: list[_Array] = list(batch.columns)
        for i, name in enumerate(batch.schema.names):
            found = self._columns.get(name)
            if found:
                try:
                    columns[i] = _decode(columns[i], found[0].type, iter(found[1]))
                except (pa.ArrowInvalid, IndexError) as error:
                    raise CorruptDataError(
                        f"column {name!r} of a chunk does not fit its dictionary: {error}"
                    ) from error
        return pa.RecordBatch.from_arrays(columns, schema=self._logical(batch.schema))

    def _logical(self, physical: pa.Schema) -> pa.Schema:
        """Return the logical schema of a batch; the last is kept, as the batches of a dataset share theirs."""
        last = self._last
        if last is None or not last[0].equals(physical):
            fields = [self._columns[field.name][0] if field.name in self._columns else field for field in physical]
            metadata: Any = physical.metadata
            last = self._last = (physical, pa.schema(fields, metadata))
        return last[1]


# -- inside a column -----------------------------------------------------------------------------------
# Leaves, the dictionaries of a column, are visited depth first in all of these.


def _chunks(column: _Array) -> list[_Array]:
    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]


def _dictionaries(array: _Array) -> Iterator[_Array]:
    if isinstance(array, pa.DictionaryArray):
        yield array.dictionary
    else:
        for child in _children(array):
            yield from _dictionaries(child)


def _encode(array: _Array, target: pa.DataType, leaves: Iterator[_Array], name: str) -> _Array:
    if target.equals(array.type):
        return array
    if isinstance(array, pa.DictionaryArray):
        return codes_of(array, next(leaves), name)
    if isinstance(array, pa.ExtensionArray):
        return _encode(array.storage, target, leaves, name)
    if isinstance(array, pa.ListViewArray | pa.LargeListViewArray):
        make = pa.list_ if isinstance(array, pa.ListViewArray) else pa.large_list
        return _encode(array.cast(make(array.type.value_field)), target, leaves, name)
    kinds = _child_types(target)
    if not kinds:
        return array.cast(target)
    children = [_encode(child, kind, leaves, name) for child, kind in zip(_children(array), kinds, strict=True)]
    return _with_children(array, target, children)


def _decode(array: _Array, target: pa.DataType, leaves: Iterator[_Array]) -> _Array:
    if target.equals(array.type):
        return array
    if isinstance(target, pa.DictionaryType):
        # It checks the indices against the dictionary: bytes that pass their checksum may still be another snapshot's.
        return pa.DictionaryArray.from_arrays(array, next(leaves), ordered=target.ordered)
    if isinstance(target, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(target, _decode(array, target.storage_type, leaves))
    kinds = _child_types(target)
    children = [_decode(child, kind, leaves) for child, kind in zip(_children(array), kinds, strict=True)]
    return _with_children(array, target, children)


def _child_types(kind: pa.DataType) -> list[pa.DataType]:
    fields: list[Any] = [kind.field(i) for i in range(kind.num_fields)]
    return [field.type for field in fields]


def _children(array: _Array) -> list[_Array]:
    """Return a nested array's children: a struct's from its offset on, a list's whole."""
    if isinstance(array, pa.ExtensionArray):
        return _children(array.storage)
    if isinstance(array, pa.StructArray):
        return [array.field(i) for i in range(array.type.num_fields)]
    return [array.values] if array.type.num_fields else []


def _with_children(array: _Array, kind: pa.DataType, children: list[_Array]) -> _Array:
    """Return a nested array with other children: its offsets and validity stay the buffers they are."""
    buffers, offset = array.buffers()[: kind.num_buffers], array.offset
    if isinstance(array, pa.StructArray) and offset:
        # Its children begin at its offset already, so its validity must.
        buffers, offset = [array.is_valid().buffers()[1] if array.null_count else None], 0
    make: Any = pa.Array.from_buffers
    return make(kind, len(array), buffers, array.null_count, offset, children)
