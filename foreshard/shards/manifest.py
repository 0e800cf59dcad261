"""The manifest: a small JSON header, a columnar chunk table and a sample-to-chunk index that need no parsing."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.errors import CorruptDataError
from foreshard.keys import DatasetKeys
from foreshard.shards.codec import checksum, decode_chunk
from foreshard.shards.columns import binary_rows
from foreshard.shards.sealed import seal, unseal

FORMAT: Final = 1
"""Version of the manifest's own layout."""

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


@dataclass(frozen=True)
class LayoutRef:
    """Names one committed layout: a generation key and the digest of the plan it was made from."""

    generation: str
    plan_digest: str

    def __str__(self) -> str:
        return f"{self.generation}/{self.plan_digest}"


@dataclass(frozen=True)
class ShardRef:
    """A shard object: its key, the SHA-256 of its content (hexadecimal) and its size in bytes."""

    key: str
    sha256: str
    size: int


@dataclass(frozen=True)
class PartRef:
    """A part of the manifest beside the header: object name below the layout, SHA-256 and size in bytes."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Header:
    """What `manifest.json` holds: everything about a layout that is not per chunk or per sample.

    Attributes:
        dataset: the dataset's name.
        generation: the generation key.
        plan_digest: digest of the plan the shards were made from.
        parent: digest of the plan that this one replaced, None for the first.
        fingerprint: the snapshot's fingerprint.
        strategy: name of the partitioning strategy.
        root_seed: root of the chunk seeds.
        algorithm_version: `seeding.ALGORITHM_VERSION` at the time of writing.
        rows: number of samples.
        nodes: node names; a chunk's `node` is a position here.
        schema_hex: the chunks' serialised Arrow schema, in hexadecimal.
        shards: the shard objects; a chunk's `shard` is a position here.
        parts: the manifest's other objects by kind: `manifest`, `index` and `consistency`.
        versions: libraries that wrote the layout.
    """

    dataset: str
    generation: str
    plan_digest: str
    parent: str | None
    fingerprint: str
    strategy: str
    root_seed: int
    algorithm_version: int
    rows: int
    nodes: tuple[str, ...]
    schema_hex: str
    shards: tuple[ShardRef, ...]
    parts: Mapping[str, PartRef]
    versions: Mapping[str, str]
    format: int = FORMAT

    def to_json(self) -> bytes:
        """Return the header as sealed JSON."""
        return seal(asdict(self))

    @classmethod
    def from_json(cls, raw: bytes, key: str) -> "Header":
        """Rebuild a header from `to_json`'s output.

        Args:
            raw: the bytes of `manifest.json`.
            key: its object key, for error messages.

        Raises:
            CorruptDataError: the bytes are damaged, of another format version, or name objects outside the dataset.
        """
        body = unseal(raw, key)
        if body.get("format") != FORMAT:
            raise CorruptDataError(
                f"{key!r} has manifest format {body.get('format')!r}, this foreshard reads {FORMAT}; upgrade foreshard"
            )
        try:
            header = cls(**{**body, **_typed(body)})
        except (KeyError, TypeError) as error:
            raise CorruptDataError(
                f"{key!r} lacks a field or has an unknown one: {error}; rebuild the layout"
            ) from error
        keys = DatasetKeys(header.dataset)
        for shard in header.shards:
            if shard.key != keys.shard(shard.sha256):
                raise CorruptDataError(f"{key!r} names shard {shard.key!r}, which is not {keys.shard(shard.sha256)!r}")
        return header


def _typed(body: dict[str, Any]) -> dict[str, Any]:
    """Give the header's nested JSON values their types back."""
    return {
        "nodes": tuple(body["nodes"]),
        "shards": tuple(ShardRef(**shard) for shard in body["shards"]),
        "parts": {kind: PartRef(**part) for kind, part in body["parts"].items()},
    }


class Manifest:
    """A layout's chunk table and sample index, as views into the bytes they were read from.

    Nothing is parsed per chunk or per sample: opening costs the same for ten chunks and ten million, and the buffers
    may be memory-mapped.

    Args:
        header: the layout's header.
        table: bytes of `manifest.arrow`.
        index: bytes of `index.arrow`.
        consistency: bytes of `consistency.arrow`; only a manifest that is about to be committed has them.

    Attributes:
        schema: schema of every chunk; the last column is `sample_id`.
        shard_of: (C,) int32, position of the chunk's shard in `header.shards`.
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

    def __init__(
        self, header: Header, table: pa.Buffer, index: pa.Buffer, consistency: pa.Buffer | None = None
    ) -> None:
        self.header = header
        self.table = table
        self.index = index
        self.consistency = consistency
        self.schema: pa.Schema = pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(header.schema_hex)))
        chunks = _read_part(table, CHUNK_SCHEMA, "manifest", header)
        samples = _read_part(index, INDEX_SCHEMA, "index", header)
        if samples.num_rows != header.rows:
            raise CorruptDataError(
                f"the sample index of layout {self.ref} has {samples.num_rows} rows, its header says {header.rows}"
            )
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
        return LayoutRef(self.header.generation, self.header.plan_digest)

    @cached_property
    def nbytes(self) -> NDArray[np.int64]:
        """Bytes of every chunk, shape (C,)."""
        return self.ends - self.starts

    def shard_key(self, chunk: int) -> str:
        """Return the object key of the shard that holds a chunk."""
        return self.header.shards[self.shard_of[chunk]].key

    def decode(self, chunk: int, raw: memoryview | bytes | pa.Buffer) -> pa.RecordBatch:
        """Verify the checksum of a chunk's bytes and decode them without copying.

        Args:
            chunk: the chunk's number.
            raw: the bytes [starts[chunk], ends[chunk]) of its shard.

        Raises:
            CorruptDataError: the bytes are not those that were written; names shard, chunk and fix.
        """
        found, stated = checksum(raw), int(self.checksums[chunk])
        if found != stated:
            raise CorruptDataError(
                f"chunk {chunk} of layout {self.ref} (bytes [{self.starts[chunk]}, {self.ends[chunk]}) of shard "
                f"{self.shard_key(chunk)!r}) has checksum {found:016x}, the manifest says {stated:016x}; read it "
                "again, and if it stays so delete the shard object and materialise this layout's plan again"
            )
        try:
            batch = decode_chunk(raw, self.schema)
        except CorruptDataError as error:
            raise CorruptDataError(f"chunk {chunk} of shard {self.shard_key(chunk)!r}: {error}") from error
        if batch.num_rows != self.rows[chunk]:
            raise CorruptDataError(
                f"chunk {chunk} of shard {self.shard_key(chunk)!r} has {batch.num_rows} rows, the manifest says "
                f"{self.rows[chunk]}; materialise this layout's plan again"
            )
        return batch


def write_part(batch: pa.RecordBatch) -> pa.Buffer:
    """Return one record batch as an Arrow IPC file: the form of every columnar part of a layout."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def part_ref(kind: str, raw: pa.Buffer) -> PartRef:
    """Return the reference to a part. Its name holds its digest, so that a crashed attempt never blocks another."""
    digest = hashlib.sha256(raw).hexdigest()
    return PartRef(f"{kind}-{digest[:16]}.arrow", digest, raw.size)


def _read_part(raw: pa.Buffer, schema: pa.Schema, kind: str, header: Header) -> pa.RecordBatch:
    where = f"part {kind!r} of layout {header.generation}/{header.plan_digest}"
    try:
        reader = pa.ipc.open_file(pa.BufferReader(raw))
        batch = reader.get_batch(0)
    except (pa.ArrowInvalid, OSError) as error:
        raise CorruptDataError(f"{where} is not an Arrow file: {error}; materialise its plan again") from error
    if reader.num_record_batches != 1 or not batch.schema.equals(schema):
        raise CorruptDataError(f"{where} has the schema {batch.schema}, expected {schema}; materialise its plan again")
    return batch


def _view(batch: pa.RecordBatch, column: str) -> Any:  # noqa: ANN401 - the caller states the dtype, which CHUNK_SCHEMA fixes
    return batch.column(column).to_numpy(zero_copy_only=True)
