"""Shards as Arrow IPC files whose record batches are chunks, each decodable from its byte range alone."""

from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import pyarrow as pa
import xxhash

from foreshard.errors import ConfigError, CorruptDataError
from foreshard.shards.schema import SAMPLE_ID, logical_schema, shard_schema

if TYPE_CHECKING:
    from foreshard.shards.dictionaries import Dictionaries

__all__ = [
    "SAMPLE_ID",
    "Compression",
    "checksum",
    "decode_chunk",
    "encode_shard",
    "logical_schema",
    "shard_schema",
]

Compression = Literal["none", "lz4", "zstd"]
"""How the buffers of a shard's chunks are compressed."""

_ZSTD_LEVEL: Final = 3
_MAGIC_BYTES: Final = 8
_FOOTER_BYTES: Final = 1024  # more than the footer has beside its schema and blocks
_CONTINUATION: Final = b"\xff\xff\xff\xff"


def encode_shard(
    batches: Iterable[pa.RecordBatch], compression: str = "none", *, schema: pa.Schema | None = None, room: int = 0
) -> tuple[pa.Buffer, list[tuple[int, int]]]:
    """Write chunks as one Arrow IPC file; an iterable that makes them one by one holds no more than one in memory.

    The bytes are a function of the batches' values only if their buffers hold nothing else, i.e. are the result of
    `Pieces.take`, which zeroes what lies under a null and behind the last row; a slice may leak its neighbours' bits.
    Compressed bytes follow from the values only under one release of Arrow, as it brings the compressors; uncompressed
    ones outlast it, and decode without copying.

    Args:
        batches: at least one, without dictionary columns; gone through again if there was too little room.
        compression: of each buffer by itself; decoding needs to know nothing of it.
        schema: of all of them; that of the first if left out.
        room: bytes that the batches will take up at most; with a good guess no byte is moved while the file grows.

    Returns:
        The file's bytes, and the range [start, end) of each batch: its whole encapsulated message, starting at a
        multiple of 8 bytes.

    Raises:
        ConfigError: there is no such compression.
    """
    options = _write_options(compression)
    schema = schema or next(iter(batches)).schema
    written: tuple[pa.Buffer, list[int]] | None = None
    if room and compression == "none":
        target = pa.allocate_buffer(room + 2 * schema.serialize().size + _FOOTER_BYTES)
        try:
            sink = pa.FixedSizeBufferWriter(target)
            ends = _write(sink, batches, schema, options)
            written = target.slice(0, sink.tell()), ends
        except (pa.ArrowInvalid, OSError) as error:
            if "out of bounds" not in str(error):
                raise
    if written is None:
        growing = pa.BufferOutputStream()
        ends = _write(growing, batches, schema, options)
        written = growing.getvalue(), ends
    raw, ends = written
    assert raw.slice(ends[0], 4).to_pybytes() == _CONTINUATION
    return raw, list(pairwise(ends))


def _write(
    sink: pa.NativeFile, batches: Iterable[pa.RecordBatch], schema: pa.Schema, options: pa.ipc.IpcWriteOptions
) -> list[int]:
    """Write a file and return where its first batch begins and where each of them ends."""
    # The schema message is written together with the first batch, so `tell` cannot give the first start.
    ends = [_MAGIC_BYTES + schema.serialize().size]
    with pa.ipc.new_file(sink, schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
            ends.append(sink.tell())
    return ends


def _write_options(compression: str) -> pa.ipc.IpcWriteOptions:
    if compression not in get_args(Compression):
        raise ConfigError(f"compression {compression!r} is unknown; use one of {', '.join(get_args(Compression))}")
    codec: Any = None  # the stub knows no level; it is given, so that a new default of Arrow's changes no bytes
    if compression == "zstd":
        codec = pa.Codec("zstd", compression_level=_ZSTD_LEVEL)
    elif compression == "lz4":
        codec = pa.Codec("lz4")
    return pa.ipc.IpcWriteOptions(metadata_version=pa.ipc.MetadataVersion.V5, compression=codec, use_threads=False)


def decode_chunk(
    raw: memoryview | bytes | pa.Buffer, schema: pa.Schema, dictionaries: "Dictionaries | None" = None
) -> pa.RecordBatch:
    """Return the record batch of a chunk from the bytes of its range alone, without copying what is uncompressed.

    The batch keeps `raw` alive. Verify the checksum first: this notices malformed messages, not changed values.

    Args:
        raw: the bytes [start, end); place them at a multiple of 8 bytes where aligned numpy views matter.
        schema: the chunk's schema as `shard_schema` gives it, `Manifest.schema`.
        dictionaries: the snapshot's; if given, columns come back with them instead of as plain indices.

    Raises:
        CorruptDataError: the bytes are no record batch of this schema, or an index is beyond its dictionary.
    """
    try:
        batch = pa.ipc.read_record_batch(pa.py_buffer(raw), schema)
        batch.validate()
    except (pa.ArrowInvalid, OSError, EOFError) as error:
        raise CorruptDataError(f"{len(raw)} bytes are not a chunk of the manifest's schema: {error}") from error
    return dictionaries.decode(batch) if dictionaries else batch


def checksum(raw: memoryview | bytes | pa.Buffer) -> int:
    """Return the XXH3-64 checksum of a chunk's bytes, as the manifest stores it."""
    return xxhash.xxh3_64_intdigest(raw)
