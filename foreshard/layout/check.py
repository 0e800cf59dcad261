"""The invariants of a plan: exact cover, split purity, bounds, memory."""

import numpy as np
from numpy.typing import NDArray

from foreshard.config import ClusterConfig, ReshardConfig
from foreshard.errors import PlanError
from foreshard.layout.contents import shard_contents
from foreshard.layout.plan import PLAN_SCHEMA, Plan, chunk_content_ids


def check_plan(plan: Plan, splits: NDArray[np.uint8], cluster: ClusterConfig, reshard: ReshardConfig) -> None:
    """Check that a plan may be carried out.

    Args:
        plan: what to check.
        splits: shape (n,) split code of every sample.
        cluster: the nodes.
        reshard: bounds of chunks.

    Raises:
        PlanError: it is not an exact cover, mixes splits, breaks a bound or exceeds a node's memory; the message names
            the first chunk, shard or node at fault.
    """
    if not plan.chunks.schema.equals(PLAN_SCHEMA):
        raise PlanError(f"plan {plan.generation}: its chunks have the schema {plan.chunks.schema}, not PLAN_SCHEMA")
    _check_cover(plan, splits)
    _check_bounds(plan, reshard)
    _check_places(plan, cluster)


def _check_cover(plan: Plan, splits: NDArray[np.uint8]) -> None:
    where, ids, rows = f"plan {plan.generation}", plan.sample_ids, plan.column("rows")
    if len(ids) != len(splits) or int(rows.sum()) != len(ids):
        raise PlanError(
            f"{where} lists {len(ids)} samples in chunks of {int(rows.sum())} rows, the snapshot has {len(splits)}"
        )
    if len(ids) and (ids.min() < 0 or ids.max() >= len(splits)):
        raise PlanError(f"{where} lists sample ids outside 0..{len(splits) - 1}")
    times = np.bincount(ids, minlength=len(splits))
    if (times != 1).any():
        sample = int(np.flatnonzero(times != 1)[0])
        raise PlanError(f"{where} places sample {sample} {times[sample]} times; each belongs in exactly one chunk")
    if not np.array_equal(plan.column("chunk"), np.arange(len(rows))):
        raise PlanError(f"{where} does not number its chunks 0..{len(rows) - 1} in order")
    chunk = np.repeat(np.arange(len(rows)), rows.astype(np.int64))
    falling = np.flatnonzero((np.diff(ids) <= 0) & (np.diff(chunk) == 0))
    if len(falling):
        raise PlanError(f"{where}: the ids of chunk {chunk[falling[0]]} are not ascending")
    mixed = np.flatnonzero(splits[ids] != plan.column("split")[chunk])
    if len(mixed):
        raise PlanError(f"{where}: chunk {chunk[mixed[0]]} holds sample {ids[mixed[0]]} of another split")
    if plan.chunks.column("content_id").to_pylist() != chunk_content_ids(ids, plan.offsets):
        raise PlanError(f"{where}: a content id does not match its chunk's samples; plan the generation again")


def _check_bounds(plan: Plan, reshard: ReshardConfig) -> None:
    rows = plan.column("rows").astype(np.int64)
    home = np.stack([plan.column("split").astype(np.int64), plan.column("group").astype(np.int64)], axis=1)
    _, group, sharing = np.unique(home, axis=0, return_inverse=True, return_counts=True)
    # A group with fewer rows than the smallest chunk is one chunk.
    small = (rows < reshard.min_chunk_rows) & (sharing[group.ravel()] > 1)
    wrong = np.flatnonzero((rows < 1) | (rows > reshard.max_chunk_rows) | small)
    if len(wrong):
        raise PlanError(
            f"plan {plan.generation}: chunk {wrong[0]} has {rows[wrong[0]]} rows, outside min_chunk_rows "
            f"{reshard.min_chunk_rows} to max_chunk_rows {reshard.max_chunk_rows}"
        )


def _check_places(plan: Plan, cluster: ClusterConfig) -> None:
    names = tuple(node.name for node in cluster.nodes)
    if plan.nodes != names:
        raise PlanError(f"plan {plan.generation} is for nodes {list(plan.nodes)}, the cluster has {list(names)}")
    node, shard = plan.column("node").astype(np.int64), plan.column("shard").astype(np.int64)
    if len(node) and (node.min() < 0 or node.max() >= len(names)):
        raise PlanError(f"plan {plan.generation} uses node numbers outside 0..{len(names) - 1}")
    # Chunks in an inherited shard may have got other nodes since it was written.
    home = np.where(shard < plan.inherited.shards, 0, node)
    places = np.unique(np.stack([shard, home, plan.column("split").astype(np.int64)], axis=1), axis=0)
    if not np.array_equal(places[:, 0], np.arange(len(places))):
        raise PlanError(f"plan {plan.generation}: shards must be numbered from 0, each with one node and one split")
    _check_slots(plan)
    rows = plan.column("rows").astype(np.float64)
    held = np.bincount(node, rows * plan.predicted.get("row_bytes", 0.0), len(names))
    for config, nbytes in zip(cluster.nodes, held.tolist(), strict=True):
        if nbytes > config.memory:
            raise PlanError(
                f"plan {plan.generation} puts {nbytes:.0f} bytes on node {config.name!r}, which has {config.memory}; "
                "raise its memory or add nodes"
            )


def _check_slots(plan: Plan) -> None:
    inherited = plan.inherited
    if inherited.shards and len(inherited.slot) != plan.chunks.num_rows:
        raise PlanError(f"plan {plan.generation} gives {len(inherited.slot)} slots for {plan.chunks.num_rows} chunks")
    contents = shard_contents(plan)
    slot = np.concatenate([plan.slot, inherited.retired_slot])
    order = np.lexsort((slot, np.concatenate([plan.column("shard"), inherited.retired_shard])))
    wrong = np.flatnonzero(slot[order] != np.arange(len(slot)) - contents.bounds[contents.shard])
    if len(wrong):
        raise PlanError(
            f"plan {plan.generation}: the slots of shard {contents.shard[wrong[0]]} are not 0, 1, 2, ...; plan the "
            "generation again"
        )
    if len(inherited.retired_ids) != int(inherited.retired_rows.sum()):
        raise PlanError(f"plan {plan.generation} lists {len(inherited.retired_ids)} samples of retired chunks")
