"""The manifest: columnar tables of chunks, shards and samples that need no parsing, behind a small JSON header."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.errors import CorruptDataError
from foreshard.keys import DatasetKeys, LayoutRef
from foreshard.shards.codec import checksum, decode_chunk
from foreshard.shards.columns import binary_rows
from foreshard.shards.dictionaries import Dictionaries
from foreshard.shards.header import Header, ShardRef
from foreshard.shards.schema import physical_type

CHUNK_SCHEMA: Final = pa.schema(
    [
        pa.field("chunk", pa.int32(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("start_address", pa.int64(), nullable=False),
        pa.field("end_address", pa.int64(), nullable=False),
        pa.field("rows", pa.int32(), nullable=False),
        pa.field("node", pa.int32(), nullable=False),
        pa.field("split", pa.uint8(), nullable=False),
        pa.field("group", pa.int32(), nullable=False),
        pa.field("seed", pa.binary(16), nullable=False),
        pa.field("checksum", pa.uint64(), nullable=False),
        pa.field("access_count", pa.float64(), nullable=False),
        pa.field("prediction_score", pa.float32(), nullable=False),
    ]
)
"""Columns of `manifest.arrow`, one row per chunk; `shard` and `node` are positions in the header's lists."""

INDEX_SCHEMA: Final = pa.schema(
    [pa.field("chunk", pa.int32(), nullable=False), pa.field("row", pa.int32(), nullable=False)]
)
"""Columns of `index.arrow`, one row per sample in sample-id order."""


SHARD_SCHEMA: Final = pa.schema(
    [pa.field("sha256", pa.binary(32), nullable=False), pa.field("size", pa.int64(), nullable=False)]
)
"""Columns of `shards.arrow`, one row per shard object: digest of its content, which is its name, and bytes."""

REQUIRED: Final = ("manifest", "index", "shards")
"""Parts without which a layout cannot be read."""


class Manifest:
    """A layout's chunks, shards and samples, as views into the bytes they were read from.

    Nothing is parsed per chunk or per sample: opening costs the same for ten chunks and ten million, and the buffers
    may be memory-mapped.

    Args:
        header: the layout's header.
        parts: bytes of the layout's parts by kind; `REQUIRED` ones, and all of them if it is about to be committed.

    Attributes:
        schema: what users see of every chunk; the last column is `sample_id`.
        physical: what a chunk's bytes hold: as `schema`, with the index types of dictionary columns.
        dictionaries: the values of its dictionary columns.
        shard_digests: (S, 32) uint8, SHA-256 of every shard object.
        shard_sizes: (S,) int64, its bytes.
        shard_of: (C,) int32, position of the chunk's shard in these.
        starts: (C,) int64, first byte of the chunk in its shard object.
        ends: (C,) int64, first byte after it.
        rows: (C,) int32, samples in the chunk.
        nodes: (C,) int32, position of the chunk's node in `header.nodes`.
        splits: (C,) uint8, split code.
        groups: (C,) int32, group code that the strategy gave.
        seeds: (C, 16) uint8, the chunk's seed.
        checksums: (C,) uint64, XXH3-64 of the chunk's bytes.
        access_counts: (C,) float64, draws counted when the layout was planned.
        scores: (C,) float32, prediction score.
        chunk_of: (n,) int32, chunk of every sample.
        row_of: (n,) int32, its row inside the chunk, after the seeded shuffle.

    Raises:
        CorruptDataError: a buffer does not have the columns or the length that the header implies.
    """

    def __init__(self, header: Header, parts: Mapping[str, pa.Buffer]) -> None:
        self.header = header
        self.parts = parts
        self.schema: pa.Schema = pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(header.schema_hex)))
        self.physical = pa.schema([field.with_type(physical_type(field.type)) for field in self.schema])
        self.dictionaries = (
            Dictionaries.from_bytes(parts["dictionaries"])
            if "dictionaries" in parts
            else Dictionaries.none(self.schema.remove(len(self.schema) - 1))
        )
        chunks = _read_part(parts["manifest"], CHUNK_SCHEMA, "manifest", header, header.chunks)
        samples = _read_part(parts["index"], INDEX_SCHEMA, "index", header, header.rows)
        shards = _read_part(parts["shards"], SHARD_SCHEMA, "shards", header, header.shards)
        self.shard_digests: NDArray[np.uint8] = binary_rows(shards.column("sha256"))
        self.shard_sizes: NDArray[np.int64] = _view(shards, "size")
        self.shard_of: NDArray[np.int32] = _view(chunks, "shard")
        self.starts: NDArray[np.int64] = _view(chunks, "start_address")
        self.ends: NDArray[np.int64] = _view(chunks, "end_address")
        self.rows: NDArray[np.int32] = _view(chunks, "rows")
        self.nodes: NDArray[np.int32] = _view(chunks, "node")
        self.splits: NDArray[np.uint8] = _view(chunks, "split")
        self.groups: NDArray[np.int32] = _view(chunks, "group")
        self.seeds: NDArray[np.uint8] = binary_rows(chunks.column("seed"))
        self.checksums: NDArray[np.uint64] = _view(chunks, "checksum")
        self.access_counts: NDArray[np.float64] = _view(chunks, "access_count")
        self.scores: NDArray[np.float32] = _view(chunks, "prediction_score")
        self.chunk_of: NDArray[np.int32] = _view(samples, "chunk")
        self.row_of: NDArray[np.int32] = _view(samples, "row")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ref(self) -> LayoutRef:
        """What names this layout in the repository."""
        return self.header.ref

    @cached_property
    def shards(self) -> tuple[ShardRef, ...]:
        """The shard objects; a chunk's `shard_of` is a position here."""
        keys = DatasetKeys(self.header.dataset)
        digests = [bytes(digest).hex() for digest in self.shard_digests]
        sizes = self.shard_sizes.tolist()
        return tuple(ShardRef(keys.shard(sha256), sha256, size) for sha256, size in zip(digests, sizes, strict=True))

    @cached_property
    def nbytes(self) -> NDArray[np.int64]:
        """Bytes of every chunk, shape (C,)."""
        return self.ends - self.starts

    def shard_key(self, chunk: int) -> str:
        """Return the object key of the shard that holds a chunk."""
        return self.shards[self.shard_of[chunk]].key

    def decode(self, chunk: int, raw: memoryview | bytes | pa.Buffer) -> pa.RecordBatch:
        """Verify the checksum of a chunk's bytes and decode them without copying.

        Args:
            chunk: the chunk's number.
            raw: the bytes [starts[chunk], ends[chunk]) of its shard.

        Raises:
            CorruptDataError: the bytes are not those that were written; names shard, chunk and fix.
        """
        physical = self.decode_physical(chunk, raw)
        try:
            return self.dictionaries.decode(physical)
        except CorruptDataError as error:
            raise CorruptDataError(f"chunk {chunk} of shard {self.shard_key(chunk)!r}: {error}") from error

    def decode_physical(self, chunk: int, raw: memoryview | bytes | pa.Buffer) -> pa.RecordBatch:
        """As `decode`, with the indices of dictionary columns alone.

        Raises:
            CorruptDataError: as `decode`.
        """
        found, stated = checksum(raw), int(self.checksums[chunk])
        if found != stated:
            raise CorruptDataError(
                f"chunk {chunk} of layout {self.ref} (bytes [{self.starts[chunk]}, {self.ends[chunk]}) of shard "
                f"{self.shard_key(chunk)!r}) has checksum {found:016x}, the manifest says {stated:016x}; read it "
                "again, and if it stays so delete the shard object and materialise this layout's plan again"
            )
        try:
            batch = decode_chunk(raw, self.physical)
        except CorruptDataError as error:
            raise CorruptDataError(f"chunk {chunk} of shard {self.shard_key(chunk)!r}: {error}") from error
        if batch.num_rows != self.rows[chunk]:
            raise CorruptDataError(
                f"chunk {chunk} of shard {self.shard_key(chunk)!r} has {batch.num_rows} rows, the manifest says "
                f"{self.rows[chunk]}; materialise this layout's plan again"
            )
        return batch


def _read_part(raw: pa.Buffer, schema: pa.Schema, kind: str, header: Header, rows: int) -> pa.RecordBatch:
    where = f"part {kind!r} of layout {header.ref}"
    try:
        reader = pa.ipc.open_file(pa.BufferReader(raw))
        batch = reader.get_batch(0)
    except (pa.ArrowInvalid, OSError) as error:
        raise CorruptDataError(f"{where} is not an Arrow file: {error}; materialise its plan again") from error
    if reader.num_record_batches != 1 or not batch.schema.equals(schema):
        raise CorruptDataError(f"{where} has the schema {batch.schema}, expected {schema}; materialise its plan again")
    if batch.num_rows != rows:
        raise CorruptDataError(f"{where} has {batch.num_rows} rows, the header says {rows}; materialise its plan again")
    return batch


def _view(batch: pa.RecordBatch, column: str) -> Any:  # noqa: ANN401 - the caller states the dtype, which CHUNK_SCHEMA fixes
    return batch.column(column).to_numpy(zero_copy_only=True)
