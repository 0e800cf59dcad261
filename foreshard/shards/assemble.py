"""Put a manifest together from a plan, the order of its chunks and the shards as written."""

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import foreshard
from foreshard.errors import PlanError
from foreshard.seeding import ALGORITHM_VERSION
from foreshard.shards.arrange import ChunkOrder, plan_column
from foreshard.shards.columns import fixed_binary
from foreshard.shards.manifest import CHUNK_SCHEMA, INDEX_SCHEMA, Header, Manifest, ShardRef, part_ref, write_part
from foreshard.shards.metadata import consistency_table

if TYPE_CHECKING:
    from foreshard.layout.plan import Plan


@dataclass(frozen=True)
class PutShard:
    """One shard as put: its reference, and the ranges and checksums of its chunks in order."""

    ref: ShardRef
    ranges: NDArray[np.int64]
    checksums: NDArray[np.uint64]
    written: bool


def assemble(
    dataset: str,
    plan: "Plan",
    schema: pa.Schema,
    chunks: ChunkOrder,
    shards: list[PutShard],
    *,
    access_counts: NDArray[np.float64] | None,
    scores: NDArray[np.float32] | None,
) -> Manifest:
    """Return the manifest of a layout whose shards are written.

    Args:
        dataset: the dataset's name.
        plan: what was materialised.
        schema: the chunks' schema.
        chunks: the plan's chunks, seeded and shuffled.
        shards: in order of dense shard number, each with its chunks ascending.
        access_counts: (C,) draws per chunk, zeros if None.
        scores: (C,) prediction score per chunk, zeros if None.

    Raises:
        PlanError: counts or scores are not one per chunk.
    """
    versions = {
        "foreshard": foreshard.__version__,
        "numpy": np.__version__,
        "pyarrow": pa.__version__,
        "python": platform.python_version(),
    }
    about = {"strategy": plan.strategy, "plan_digest": plan.digest, "fingerprint": plan.fingerprint, **versions}
    nodes, groups = plan_column(plan, "node").astype(np.int32), plan_column(plan, "group").astype(np.int32)
    metadata = consistency_table(
        content_ids=chunks.content_ids,
        seeds=chunks.seeds,
        orders=chunks.orders,
        groups=groups,
        nodes=nodes,
        rows=np.diff(chunks.offsets).astype(np.int32),
        about=about,
    )
    table = write_part(_chunk_table(plan, chunks, shards, access_counts, scores))
    index = write_part(_index(chunks))
    consistency = write_part(metadata)
    parts = {"manifest": table, "index": index, "consistency": consistency}
    header = Header(
        dataset=dataset,
        generation=plan.generation,
        plan_digest=plan.digest,
        parent=plan.parent,
        fingerprint=plan.fingerprint,
        strategy=plan.strategy,
        root_seed=plan.root_seed,
        algorithm_version=ALGORITHM_VERSION,
        rows=len(chunks.stored),
        nodes=tuple(plan.nodes),
        schema_hex=schema.serialize().to_pybytes().hex(),
        shards=tuple(shard.ref for shard in shards),
        parts={kind: part_ref(kind, raw) for kind, raw in parts.items()},
        versions=versions,
    )
    return Manifest(header, table, index, consistency)


def _chunk_table(
    plan: "Plan",
    chunks: ChunkOrder,
    shards: list[PutShard],
    access_counts: NDArray[np.float64] | None,
    scores: NDArray[np.float32] | None,
) -> pa.RecordBatch:
    count = len(chunks.shard)
    order = np.concatenate(chunks.of_shard())
    ranges = np.empty((count, 2), np.int64)
    ranges[order] = np.concatenate([shard.ranges for shard in shards])
    sums = np.empty(count, np.uint64)
    sums[order] = np.concatenate([shard.checksums for shard in shards])
    columns: list[Any] = [
        np.arange(count, dtype=np.int32),
        chunks.shard.astype(np.int32),
        ranges[:, 0],
        ranges[:, 1],
        np.diff(chunks.offsets).astype(np.int32),
        plan_column(plan, "node").astype(np.int32),
        plan_column(plan, "split").astype(np.uint8),
        plan_column(plan, "group").astype(np.int32),
        fixed_binary(chunks.seeds),
        sums,
        _per_chunk(access_counts, count, "access counts").astype(np.float64),
        _per_chunk(scores, count, "scores").astype(np.float32),
    ]
    return pa.RecordBatch.from_arrays([pa.array(column) for column in columns], schema=CHUNK_SCHEMA)


def _per_chunk(values: NDArray[Any] | None, count: int, what: str) -> NDArray[Any]:
    if values is None:
        return np.zeros(count)
    if values.shape != (count,):
        raise PlanError(f"{what} have the shape {values.shape}; give one for each of the plan's {count} chunks")
    return values


def _index(chunks: ChunkOrder) -> pa.RecordBatch:
    rows = np.diff(chunks.offsets)
    total = len(chunks.stored)
    chunk_of, row_of = np.empty(total, np.int32), np.empty(total, np.int32)
    chunk_of[chunks.stored] = np.repeat(np.arange(len(rows)), rows)
    row_of[chunks.stored] = np.arange(total) - np.repeat(chunks.offsets[:-1], rows)
    return pa.RecordBatch.from_arrays([pa.array(chunk_of), pa.array(row_of)], schema=INDEX_SCHEMA)
