"""A committed layout of millions of chunks without their data, to measure what it costs to open."""

import numpy as np
import pyarrow as pa

import foreshard
from foreshard.keys import LayoutRef
from foreshard.seeding import ALGORITHM_VERSION
from foreshard.shards.codec import shard_schema
from foreshard.shards.columns import fixed_binary
from foreshard.shards.header import Header
from foreshard.shards.manifest import CHUNK_SCHEMA, INDEX_SCHEMA, SHARD_SCHEMA, Manifest
from foreshard.shards.parts import part_ref, write_part
from foreshard.shards.repository import Repository

CHUNK_ROWS = 10
_SHARD_CHUNKS = 25
_CHUNK_BYTES = 250_000
_NODES = 8


def commit_big_layout(repository: Repository, chunks: int) -> LayoutRef:
    """Commit a layout of chunks of ten samples, all parts of which are written as `assemble` writes them.

    Seeds, checksums and digests are random: they compress no better than real ones. No shard object exists.

    Args:
        repository: where.
        chunks: how many; a multiple of 25, the chunks of a shard.
    """
    random = np.random.default_rng(0)
    batches = {
        "manifest": _chunk_table(random, chunks),
        "index": _index(chunks),
        "shards": _shards(random, chunks // _SHARD_CHUNKS),
    }
    parts = {kind: write_part(batch) for kind, batch in batches.items()}
    schema = pa.schema([pa.field("payload", pa.binary()), pa.field("label", pa.int64())])
    header = Header(
        dataset=repository.keys.dataset,
        generation="bench.e000000",
        plan_digest=random.bytes(16).hex(),
        parent=None,
        fingerprint=random.bytes(16).hex(),
        strategy="seeded_shuffle",
        root_seed=7,
        algorithm_version=ALGORITHM_VERSION,
        rows=chunks * CHUNK_ROWS,
        chunks=chunks,
        shards=chunks // _SHARD_CHUNKS,
        nodes=tuple(f"node-{n}" for n in range(_NODES)),
        schema_hex=shard_schema(schema).serialize().to_pybytes().hex(),
        parts={kind: part_ref(kind, raw) for kind, raw in parts.items()},
        versions={"foreshard": foreshard.__version__},
    )
    return repository.commit(Manifest(header, parts))


def _chunk_table(random: np.random.Generator, chunks: int) -> pa.RecordBatch:
    chunk = np.arange(chunks, dtype=np.int32)
    shard, slot = np.divmod(chunk, _SHARD_CHUNKS)
    start = slot.astype(np.int64) * _CHUNK_BYTES
    columns = {
        "chunk": chunk,
        "shard": shard,
        "start_address": start,
        "end_address": start + _CHUNK_BYTES,
        "rows": np.full(chunks, CHUNK_ROWS, np.int32),
        "node": shard % _NODES,
        "split": np.zeros(chunks, np.uint8),
        "group": np.zeros(chunks, np.int32),
        "seed": fixed_binary(random.integers(0, 256, (chunks, 16), np.uint8)),
        "checksum": random.integers(0, 2**64, chunks, np.uint64),
        "access_count": random.random(chunks),
        "prediction_score": random.random(chunks, np.float32),
    }
    return pa.RecordBatch.from_arrays([pa.array(columns[name]) for name in CHUNK_SCHEMA.names], schema=CHUNK_SCHEMA)


def _index(chunks: int) -> pa.RecordBatch:
    # Which sample lies where decides nothing about the cost of opening; a permutation of the chunks stands for any.
    chunk = np.repeat(np.random.default_rng(1).permutation(chunks).astype(np.int32), CHUNK_ROWS)
    row = np.tile(np.arange(CHUNK_ROWS, dtype=np.int32), chunks)
    return pa.RecordBatch.from_arrays([pa.array(chunk), pa.array(row)], schema=INDEX_SCHEMA)


def _shards(random: np.random.Generator, shards: int) -> pa.RecordBatch:
    digests = fixed_binary(random.integers(0, 256, (shards, 32), np.uint8))
    sizes = pa.array(np.full(shards, _SHARD_CHUNKS * _CHUNK_BYTES, np.int64))
    return pa.RecordBatch.from_arrays([digests, sizes], schema=SHARD_SCHEMA)
