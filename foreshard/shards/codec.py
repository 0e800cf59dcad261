"""Shards as Arrow IPC files whose record batches are chunks, each decodable from its byte range alone."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import pyarrow as pa
import xxhash

from foreshard.errors import CorruptDataError, SourceError

SAMPLE_ID: Final = "sample_id"
"""Last column of every chunk: the int64 sample id of each row."""

_MAGIC_BYTES: Final = 8
_CONTINUATION: Final = b"\xff\xff\xff\xff"


def shard_schema(source: pa.Schema) -> pa.Schema:
    """Return the schema of a source's chunks: its columns with plain types, then `sample_id`.

    Dictionary columns become their value type (a chunk must decode without the shard's dictionaries), string and
    binary views become offset-based ones (a view would drag the buffers of its whole row group into every chunk).

    Raises:
        SourceError: the source has a column named `sample_id` already.
    """
    if SAMPLE_ID in source.names:
        raise SourceError(f"source column {SAMPLE_ID!r} clashes with foreshard's own; rename it in the source files")
    fields = [_plain_field(field) for field in source]
    return pa.schema([*fields, pa.field(SAMPLE_ID, pa.int64(), nullable=False)])


def _plain_field(field: "pa.Field[Any]") -> "pa.Field[Any]":
    return field.with_type(_plain_type(field.type))


def _plain_type(kind: pa.DataType) -> pa.DataType:
    plain = kind
    if isinstance(kind, pa.DictionaryType):
        plain = _plain_type(kind.value_type)
    elif pa.types.is_string_view(kind):
        plain = pa.string()
    elif pa.types.is_binary_view(kind):
        plain = pa.binary()
    elif isinstance(kind, pa.StructType):
        plain = pa.struct([_plain_field(kind.field(i)) for i in range(kind.num_fields)])
    elif isinstance(kind, pa.MapType):
        make: Any = pa.map_  # an item given as a field keeps its nullability; the stub asks for a type
        plain = make(_plain_type(kind.key_type), _plain_field(kind.item_field), keys_sorted=kind.keys_sorted)
    elif isinstance(kind, pa.FixedSizeListType):
        plain = pa.list_(_plain_field(kind.value_field), kind.list_size)
    elif isinstance(kind, pa.LargeListType):
        plain = pa.large_list(_plain_field(kind.value_field))
    elif isinstance(kind, pa.ListType):
        plain = pa.list_(_plain_field(kind.value_field))
    return plain


def encode_shard(batches: Sequence[pa.RecordBatch]) -> tuple[pa.Buffer, list[tuple[int, int]]]:
    """Write chunks as one Arrow IPC file, uncompressed.

    The bytes are a function of the batches' values only if their buffers hold nothing else, i.e. are the result of
    `take`, which zeroes what lies under a null and behind the last row; a slice may leak its neighbours' bits.

    Args:
        batches: at least one, all of one schema without dictionary columns.

    Returns:
        The file's bytes, and the range [start, end) of each batch: its whole encapsulated message, starting at a
        multiple of 8 bytes.
    """
    schema = batches[0].schema
    options = pa.ipc.IpcWriteOptions(metadata_version=pa.ipc.MetadataVersion.V5, compression=None, use_threads=False)
    sink = pa.BufferOutputStream()
    # The schema message is written together with the first batch, so `tell` cannot give the first start.
    ends = [_MAGIC_BYTES + schema.serialize().size]
    with pa.ipc.new_file(sink, schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
            ends.append(sink.tell())
    raw = sink.getvalue()
    assert raw.slice(ends[0], 4).to_pybytes() == _CONTINUATION
    return raw, list(pairwise(ends))


def decode_chunk(raw: memoryview | bytes | pa.Buffer, schema: pa.Schema) -> pa.RecordBatch:
    """Return the record batch of a chunk from the bytes of its range alone, without copying them.

    The batch keeps `raw` alive. Verify the checksum first: this notices malformed messages, not changed values.

    Args:
        raw: the bytes [start, end); place them at a multiple of 8 bytes where aligned numpy views matter.
        schema: the chunk's schema, `Manifest.schema`.

    Raises:
        CorruptDataError: the bytes are no record batch of this schema.
    """
    try:
        batch = pa.ipc.read_record_batch(pa.py_buffer(raw), schema)
        batch.validate()
    except (pa.ArrowInvalid, OSError, EOFError) as error:
        raise CorruptDataError(f"{len(raw)} bytes are not a chunk of the manifest's schema: {error}") from error
    return batch


def checksum(raw: memoryview | bytes | pa.Buffer) -> int:
    """Return the XXH3-64 checksum of a chunk's bytes, as the manifest stores it."""
    return xxhash.xxh3_64_intdigest(raw)
