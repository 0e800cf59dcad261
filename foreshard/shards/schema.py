"""The types of a chunk's columns: what its users see (logical) and what its record batches hold (physical).

They differ where a column has dictionaries, at its top or inside lists, structs and maps: the users see the dictionary,
the chunk holds its indices (`shards.dictionaries`).
"""

from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

import pyarrow as pa

from foreshard.errors import SourceError

SAMPLE_ID: Final = "sample_id"
"""Last column of every chunk: the int64 sample id of each row."""

DictionaryType: TypeAlias = "pa.DictionaryType[Any, Any, Any]"
_Leaf = Callable[[pa.DataType], pa.DataType]


def shard_schema(source: pa.Schema) -> pa.Schema:
    """Return the schema of the chunks' record batches (physical): a source's columns, then `sample_id`.

    Dictionary columns become integers of their index type (a chunk decodes from its range alone; the dictionary is the
    snapshot's, see `Dictionaries`). String, binary and list views become offset-based ones: a view would drag the
    buffers of its whole row group into every chunk.

    Raises:
        SourceError: the source has a column named `sample_id` already.
    """
    return _with_sample_id(source, physical_type)


def logical_schema(source: pa.Schema) -> pa.Schema:
    """Return the schema that users see: as `shard_schema`, with dictionary types as they are in the source.

    Raises:
        SourceError: the source has a column named `sample_id` already.
    """
    return _with_sample_id(source, logical_type)


def physical_type(kind: pa.DataType) -> pa.DataType:
    """Return the type in which a chunk holds a source's type."""
    if isinstance(kind, pa.DictionaryType):
        return kind.index_type
    if isinstance(kind, pa.BaseExtensionType):
        return _extension(kind, physical_type)
    return _rebuild_type(kind, physical_type)


def logical_type(kind: pa.DataType) -> pa.DataType:
    """Return the type that users see for a source's type: offset-based, and otherwise the same."""
    if isinstance(kind, pa.DictionaryType):
        make: Any = pa.dictionary  # the stub knows basic values alone
        return make(kind.index_type, logical_type(kind.value_type), ordered=kind.ordered)
    if isinstance(kind, pa.BaseExtensionType):
        return _extension(kind, logical_type)
    return _rebuild_type(kind, logical_type)


def dictionary_leaves(kind: pa.DataType, path: str) -> Iterator[tuple[str, DictionaryType]]:
    """Yield path and type of each dictionary in a column, depth first, e.g. `tags.item` for a list's."""
    if isinstance(kind, pa.DictionaryType):
        yield path, kind
    elif isinstance(kind, pa.BaseExtensionType):
        yield from dictionary_leaves(kind.storage_type, path)
    elif isinstance(kind, pa.MapType):
        yield from dictionary_leaves(kind.key_type, f"{path}.key")
        yield from dictionary_leaves(kind.item_type, f"{path}.value")
    else:
        for i in range(kind.num_fields):
            child: Any = kind.field(i)  # the stubs know fields of structs alone
            yield from dictionary_leaves(child.type, f"{path}.{child.name}")


def _with_sample_id(source: pa.Schema, leaf: _Leaf) -> pa.Schema:
    if SAMPLE_ID in source.names:
        raise SourceError(f"source column {SAMPLE_ID!r} clashes with foreshard's own; rename it in the source files")
    fields = [field.with_type(leaf(field.type)) for field in source]
    return pa.schema([*fields, pa.field(SAMPLE_ID, pa.int64(), nullable=False)])


def _extension(kind: pa.BaseExtensionType, leaf: _Leaf) -> pa.DataType:
    """Return an extension type, or its storage where that must be of another type, which no extension type allows."""
    storage = leaf(kind.storage_type)
    return kind if storage.equals(kind.storage_type) else storage


def _rebuild_type(kind: pa.DataType, leaf: _Leaf) -> pa.DataType:
    def inside(field: Any) -> Any:  # noqa: ANN401 - fields of any type
        return field.with_type(leaf(field.type))

    plain = kind
    if pa.types.is_string_view(kind):
        plain = pa.string()
    elif pa.types.is_binary_view(kind):
        plain = pa.binary()
    elif isinstance(kind, pa.StructType):
        plain = pa.struct([inside(kind.field(i)) for i in range(kind.num_fields)])
    elif isinstance(kind, pa.MapType):
        make: Any = pa.map_  # an item given as a field keeps its nullability; the stub asks for a type
        plain = make(leaf(kind.key_type), inside(kind.item_field), keys_sorted=kind.keys_sorted)
    elif isinstance(kind, pa.FixedSizeListType):
        plain = pa.list_(inside(kind.value_field), kind.list_size)
    elif isinstance(kind, pa.LargeListType | pa.LargeListViewType):
        plain = pa.large_list(inside(kind.value_field))
    elif isinstance(kind, pa.ListType | pa.ListViewType):
        plain = pa.list_(inside(kind.value_field))
    return plain
