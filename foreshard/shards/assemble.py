"""Put a manifest together from a plan, the order of its chunks and the shards in place."""

import platform
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import foreshard
from foreshard.errors import PlanError
from foreshard.layout.plan import Plan
from foreshard.seeding import ALGORITHM_VERSION
from foreshard.shards.arrange import ChunkOrder
from foreshard.shards.codec import logical_schema
from foreshard.shards.columns import fixed_binary
from foreshard.shards.dictionaries import Dictionaries
from foreshard.shards.header import Header
from foreshard.shards.manifest import CHUNK_SCHEMA, INDEX_SCHEMA, SHARD_SCHEMA, Manifest
from foreshard.shards.metadata import consistency_table
from foreshard.shards.parts import part_ref, write_part
from foreshard.shards.shard_table import ShardTable


@dataclass(frozen=True, eq=False)
class Figures:
    """What a manifest says of its C chunks beside where they lie; zeros if None.

    Attributes:
        access_counts: (C,) float64, draws counted when the layout was planned.
        scores: (C,) float32, prediction score.
    """

    access_counts: NDArray[np.float64] | None = None
    scores: NDArray[np.float32] | None = None


def assemble(
    dataset: str,
    schema: pa.Schema,
    chunks: ChunkOrder,
    table: ShardTable,
    dictionaries: Dictionaries,
    figures: Figures,
) -> Manifest:
    """Return the manifest of a layout whose shards are in place.

    Args:
        dataset: the dataset's name.
        schema: the source's schema.
        chunks: the chunks of what was materialised, seeded and shuffled.
        table: where they lie.
        dictionaries: the snapshot's.
        figures: what else to say of the chunks.

    Raises:
        PlanError: counts or scores are not one per chunk.
    """
    plan = chunks.contents.plan
    versions = {
        "foreshard": foreshard.__version__,
        "numpy": np.__version__,
        "pyarrow": pa.__version__,
        "python": platform.python_version(),
    }
    batches = {
        "shards": _shards(table),
        "index": pa.RecordBatch.from_arrays([pa.array(part) for part in sample_index(chunks)], schema=INDEX_SCHEMA),
        "manifest": _chunk_table(plan, chunks, table, figures),
        "consistency": _consistency(plan, chunks, versions),
    }
    parts = {kind: write_part(batch) for kind, batch in batches.items()}
    if dictionaries:
        parts["dictionaries"] = pa.py_buffer(dictionaries.to_bytes())
    header = Header(
        dataset=dataset,
        generation=plan.generation,
        plan_digest=plan.digest,
        parent=plan.parent,
        fingerprint=plan.fingerprint,
        strategy=plan.strategy,
        root_seed=plan.root_seed,
        algorithm_version=ALGORITHM_VERSION,
        rows=len(plan.sample_ids),
        chunks=plan.chunks.num_rows,
        shards=chunks.contents.shards,
        nodes=tuple(plan.nodes),
        schema_hex=logical_schema(schema).serialize().to_pybytes().hex(),
        parts={kind: part_ref(kind, raw) for kind, raw in parts.items()},
        versions=versions,
    )
    return Manifest(header, parts)


def _shards(table: ShardTable) -> pa.RecordBatch:
    shards = table.in_order()
    digests = np.frombuffer(b"".join(bytes.fromhex(shard.ref.sha256) for shard in shards), np.uint8).reshape(-1, 32)
    sizes = pa.array([shard.ref.size for shard in shards], pa.int64())
    return pa.RecordBatch.from_arrays([fixed_binary(digests), sizes], schema=SHARD_SCHEMA)


def _chunk_table(plan: Plan, chunks: ChunkOrder, table: ShardTable, figures: Figures) -> pa.RecordBatch:
    count, place = plan.chunks.num_rows, chunks.place
    columns: list[Any] = [
        np.arange(count, dtype=np.int32),
        plan.column("shard").astype(np.int32),
        table.starts[place],
        table.ends[place],
        plan.column("rows").astype(np.int32),
        plan.column("node").astype(np.int32),
        plan.column("split").astype(np.uint8),
        plan.column("group").astype(np.int32),
        fixed_binary(chunks.seeds[place]),
        table.checksums[place],
        _per_chunk(figures.access_counts, count, "access counts").astype(np.float64),
        _per_chunk(figures.scores, count, "scores").astype(np.float32),
    ]
    assert (table.starts[place] >= 0).all()
    return pa.RecordBatch.from_arrays([pa.array(column) for column in columns], schema=CHUNK_SCHEMA)


def _consistency(plan: Plan, chunks: ChunkOrder, versions: dict[str, str]) -> pa.RecordBatch:
    contents, place = chunks.contents, chunks.place
    return consistency_table(
        content_ids=contents.content_ids[place],
        seeds=chunks.seeds[place],
        orders=chunks.orders(),
        groups=plan.column("group").astype(np.int32),
        nodes=plan.column("node").astype(np.int32),
        rows=plan.column("rows").astype(np.int32),
        origin=contents.origin[contents.shard][place],
        origins=contents.origins,
        about={"strategy": plan.strategy, "plan_digest": plan.digest, "fingerprint": plan.fingerprint, **versions},
    )


def _per_chunk(values: NDArray[Any] | None, count: int, what: str) -> NDArray[Any]:
    if values is None:
        return np.zeros(count)
    if values.shape != (count,):
        raise PlanError(f"{what} have the shape {values.shape}; give one for each of the plan's {count} chunks")
    return values


def sample_index(chunks: ChunkOrder) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return chunk and row of every sample, each of shape (n,).

    Samples of retired chunks lie in one of the plan's chunks as well, and count there.
    """
    contents = chunks.contents
    rows = contents.rows
    live = np.repeat(contents.chunk >= 0, rows)
    chunk = np.repeat(contents.chunk, rows)[live]
    within = (np.arange(len(chunks.stored)) - np.repeat(chunks.offsets[:-1], rows))[live]
    chunk_of, row_of = np.empty(len(chunk), np.int32), np.empty(len(chunk), np.int32)
    chunk_of[chunks.stored[live]], row_of[chunks.stored[live]] = chunk, within
    return chunk_of, row_of
