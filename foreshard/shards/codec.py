"""Shards as Arrow IPC files whose record batches are chunks, each decodable from its byte range alone."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

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
    "take_chunks",
]

Compression = Literal["none", "lz4", "zstd"]
"""How the buffers of a shard's chunks are compressed."""

_ZSTD_LEVEL: Final = 3
_MAGIC_BYTES: Final = 8
_BLOCK_BYTES: Final = 24  # of a batch in the file's footer
_FOOTER_BYTES: Final = 1024  # more than the footer has beside its schema and blocks
_CONTINUATION: Final = b"\xff\xff\xff\xff"


def encode_shard(
    batches: Sequence[pa.RecordBatch], compression: str = "none"
) -> tuple[pa.Buffer, list[tuple[int, int]]]:
    """Write chunks as one Arrow IPC file.

    The bytes are a function of the batches' values only if their buffers hold nothing else, i.e. are the result of
    `take` (see `take_chunks`), which zeroes what lies under a null and behind the last row; a slice may leak its
    neighbours' bits. Compressed bytes follow from the values only under one release of Arrow, as it brings the
    compressors; uncompressed ones outlast it, and decode without copying.

    Args:
        batches: at least one, all of one schema without dictionary columns.
        compression: of each buffer by itself; decoding needs to know nothing of it.

    Returns:
        The file's bytes, and the range [start, end) of each batch: its whole encapsulated message, starting at a
        multiple of 8 bytes.

    Raises:
        ConfigError: there is no such compression.
    """
    options = _write_options(compression)
    schema = batches[0].schema
    schema_bytes = schema.serialize().size
    # The schema message is written together with the first batch, so `tell` cannot give the first start.
    ends = [_MAGIC_BYTES + schema_bytes]
    target: pa.Buffer | None = None
    if compression == "none":  # its size is known, so that no byte is moved again while the file grows
        sizes = sum(pa.ipc.get_record_batch_size(batch) for batch in batches)
        target = pa.allocate_buffer(2 * schema_bytes + sizes + _BLOCK_BYTES * len(batches) + _FOOTER_BYTES)
    sink = pa.BufferOutputStream() if target is None else pa.FixedSizeBufferWriter(target)
    with pa.ipc.new_file(sink, schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
            ends.append(sink.tell())
    raw = sink.getvalue() if isinstance(sink, pa.BufferOutputStream) else _written(target, sink)
    assert raw.slice(ends[0], 4).to_pybytes() == _CONTINUATION
    return raw, list(pairwise(ends))


def _write_options(compression: str) -> pa.ipc.IpcWriteOptions:
    if compression not in get_args(Compression):
        raise ConfigError(f"compression {compression!r} is unknown; use one of {', '.join(get_args(Compression))}")
    codec: Any = None  # the stub knows no level; it is given, so that a new default of Arrow's changes no bytes
    if compression == "zstd":
        codec = pa.Codec("zstd", compression_level=_ZSTD_LEVEL)
    elif compression == "lz4":
        codec = pa.Codec("lz4")
    return pa.ipc.IpcWriteOptions(metadata_version=pa.ipc.MetadataVersion.V5, compression=codec, use_threads=False)


def _written(target: pa.Buffer | None, sink: pa.NativeFile) -> pa.Buffer:
    assert target is not None
    return target.slice(0, sink.tell())


def take_chunks(
    rows: pa.Table | pa.RecordBatch, positions: NDArray[np.int64], offsets: NDArray[np.int64]
) -> list[pa.RecordBatch]:
    """Return chunks as record batches whose buffers hold nothing but their own values, as `encode_shard` needs.

    Args:
        rows: rows in any order; a table in one piece is not copied.
        positions: shape (n,), positions in `rows`, chunk after chunk, in stored order.
        offsets: shape (C + 1,), where chunks begin and end in `positions`.
    """
    wanted: Any = pa.array(positions, pa.int64())
    bounds: list[tuple[int, int]] = list(pairwise(offsets.tolist()))
    whole = [rows] if isinstance(rows, pa.RecordBatch) else rows.combine_chunks().to_batches()
    if len(whole) == 1:
        # A batch takes several times as fast as a table. One take for all chunks, sliced, would be no faster to
        # write and would leave neighbours' values in the padding of every buffer.
        return [whole[0].take(wanted.slice(start, stop - start)) for start, stop in bounds]
    # No row at all, or columns of text beyond 2 GiB, which Arrow cannot hold in one piece.
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_batches([rows])
    taken = [table.take(wanted.slice(start, stop - start)) for start, stop in bounds]
    return [pa.RecordBatch.from_arrays([c.combine_chunks() for c in t.columns], schema=t.schema) for t in taken]


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
