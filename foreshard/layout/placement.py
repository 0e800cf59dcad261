"""From a candidate to a plan: chunks of all splits, their nodes and their shards."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from foreshard.errors import PlanError
from foreshard.layout.assignment import Assignment, assign_chunks, rate_assignment
from foreshard.layout.balance import AssignmentWeights, BalanceProblem
from foreshard.layout.candidates import TRAIN, Candidate, PlanInputs
from foreshard.layout.cost import expected_touches
from foreshard.layout.inherited import Inherited
from foreshard.layout.packing import deal_by_memory, shard_target
from foreshard.layout.plan import PLAN_SCHEMA, Plan, chunk_content_ids, sort_inside_chunks
from foreshard.layout.reuse import pack_onto
from foreshard.seeding import derive_seed
from foreshard.splits import SPLITS
from foreshard.strategies import cut_groups

_GENERATIONS: Final = 40
_LABEL_COLUMNS: Final = 8


def node_arrays(inputs: PlanInputs) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return speed, memory (bytes) and bandwidth (bytes/s) of the nodes, each of shape (K,)."""
    nodes = inputs.cluster.nodes
    return (
        np.array([node.speed for node in nodes], np.float64),
        np.array([node.memory for node in nodes], np.float64),
        np.array([node.bandwidth for node in nodes], np.float64),
    )


@dataclass(frozen=True, eq=False)
class Placement:
    """Where everything lies: `PLAN_SCHEMA`, sample ids in packing order, what is inherited, and the nodes' balance."""

    chunks: pa.Table
    sample_ids: NDArray[np.int64]
    inherited: Inherited
    assignment: Assignment


def place(inputs: PlanInputs, chosen: Candidate) -> Placement:
    """Cut all splits, assign training chunks to nodes and pack shards.

    Validation and test rows lie in equal contiguous chunks, dealt in proportion to memory: a function of the snapshot
    and the cluster alone, so re-shards leave them where they are. Chunks that the parent's shards hold already stay in
    them; the others are packed into new ones.

    Raises:
        PlanError: the nodes' memory does not suffice; the message names the bytes.
    """
    _, memory, _ = node_arrays(inputs)
    samples, rows = _cut_splits(inputs, chosen)
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(rows))]).astype(np.int64)
    samples = sort_inside_chunks(samples, offsets)
    names = chunk_content_ids(samples, offsets)
    fixed = [deal_by_memory(len(part), memory) for part in rows[1:]]
    free = _free_memory(inputs, memory, fixed, rows[1:])
    train = len(rows[0])
    problem = balance_problem(inputs, samples, offsets[: train + 1], current_nodes(inputs, names[:train]), free)
    seed = derive_seed(purpose="assignment", fingerprint=inputs.fingerprint, root=inputs.root_seed)
    assigned = assign_chunks(
        problem.work,
        problem.nbytes,
        problem.speeds,
        problem.memory,
        problem.bandwidth,
        problem.current,
        problem.deviation,
        weights=problem.weights,
        seed=seed,
        generations=_GENERATIONS,
    )
    group = np.zeros(len(offsets) - 1, np.int32)
    group[:train] = chosen.arrangement.group[chosen.offsets[:-1]]
    node = np.concatenate([assigned.node, *fixed]).astype(np.int32)
    split = np.repeat(np.arange(len(SPLITS), dtype=np.uint8), [len(part) for part in rows])
    rows_of = np.diff(offsets)
    parent = inputs.parent if inputs.parent and inputs.parent.fingerprint == inputs.fingerprint else None
    target = shard_target(len(inputs.splits) * inputs.row_bytes, len(inputs.cluster.nodes))
    shard, inherited = pack_onto(parent, node, split, rows_of * inputs.row_bytes, names, target)
    columns = {
        "chunk": pa.array(np.arange(len(rows_of), dtype=np.int32)),
        "split": pa.array(split),
        "group": pa.array(group),
        "node": pa.array(node),
        "shard": pa.array(shard),
        "rows": pa.array(rows_of.astype(np.int32)),
        "heat": pa.array(chunk_heat(inputs, samples, offsets)),
        "content_id": pa.array(names, pa.binary(16)),
    }
    return Placement(pa.table(columns, schema=PLAN_SCHEMA), samples, inherited, assigned)


def _cut_splits(inputs: PlanInputs, chosen: Candidate) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
    """Return sample ids, split after split in packing order, and for each split the rows of its chunks."""
    ids, rows = [inputs.train_ids[chosen.arrangement.order]], [np.diff(chosen.offsets)]
    for code in range(1, len(SPLITS)):
        members = np.flatnonzero(inputs.splits == code).astype(np.int64)
        ids.append(members)
        rows.append(np.diff(cut_groups(np.zeros(len(members), np.int32), inputs.reshard.max_chunk_rows)))
    return np.concatenate(ids), rows


def _free_memory(
    inputs: PlanInputs, memory: NDArray[np.float64], fixed: list[NDArray[np.int32]], rows: list[NDArray[np.int64]]
) -> NDArray[np.float64]:
    """Return what the validation and test chunks leave of each node's memory."""
    free = memory.copy()
    for node, part in zip(fixed, rows, strict=True):
        free -= np.bincount(node, part * inputs.row_bytes, len(memory))
    if (free < 0).any():
        short = int(free.argmin())
        raise PlanError(
            f"node {inputs.cluster.nodes[short].name!r} lacks {-free[short]:.0f} of the bytes for its share of "
            f"validation and test rows; it has {memory[short]:.0f}, give it more memory"
        )
    return free


def chunk_heat(inputs: PlanInputs, samples: NDArray[np.int64], offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the expected draws of each chunk's samples, shape (C,)."""
    if len(offsets) < 2:  # noqa: PLR2004 - no chunk
        return np.zeros(0)
    return np.add.reduceat(inputs.heat[samples].astype(np.float64), offsets[:-1])


def current_nodes(inputs: PlanInputs, names: list[bytes]) -> NDArray[np.int32]:
    """Return the node that holds each content now, by the parent's plan; -1 for new content and nodes that are gone."""
    if inputs.parent is None:
        return np.full(len(names), -1, np.int32)
    present = {node.name: position for position, node in enumerate(inputs.cluster.nodes)}
    moved_to = np.array([present.get(name, -1) for name in inputs.parent.nodes], np.int32)
    known = inputs.parent.chunks.column("content_id").combine_chunks()
    match = pc.index_in(pa.array(names, pa.binary(16)), value_set=known).fill_null(-1).to_numpy()
    old = inputs.parent.column("node").astype(np.int64)
    return np.where(match >= 0, moved_to[old[np.maximum(match, 0)]], -1).astype(np.int32)


def balance_problem(
    inputs: PlanInputs,
    samples: NDArray[np.int64],
    offsets: NDArray[np.int64],
    current: NDArray[np.int32],
    memory: NDArray[np.float64],
) -> BalanceProblem:
    """Return the assignment problem of the training chunks, the first C of the plan.

    Time is in units of a perfectly balanced epoch, transfers in such epochs over the horizon, so that weights of 1 are
    of one size with the inconsistency.
    """
    speeds, _, bandwidth = node_arrays(inputs)
    nbytes = np.diff(offsets) * inputs.row_bytes
    heat = chunk_heat(inputs, samples, offsets)
    work = expected_touches(heat, inputs.steps) * inputs.cost.fetch_s(np.asarray(nbytes, np.float64))
    ideal = float(work.sum() / speeds.sum()) or 1.0
    reshard = inputs.reshard
    weights = AssignmentWeights(
        time=reshard.weight_time / ideal,
        transfer=reshard.weight_time / (ideal * reshard.horizon),
        consistency=reshard.weight_consistency,
    )
    deviation = _deviation(inputs, samples[: offsets[-1]], offsets)
    return BalanceProblem(work, np.asarray(nbytes, np.float64), deviation, current, speeds, memory, bandwidth, weights)


def _deviation(inputs: PlanInputs, samples: NDArray[np.int64], offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how far each chunk's rows are from the mean in labels (most frequent ones) and features, shape (C, q)."""
    labels = inputs.labels[samples]
    frequent = np.argsort(-np.bincount(labels), kind="stable")[:_LABEL_COLUMNS]
    columns = [(labels == code).astype(np.float64) for code in frequent]
    columns += [inputs.features[samples, j].astype(np.float64) for j in range(inputs.features.shape[1])]
    total = len(samples)
    return np.stack([np.add.reduceat((c - c.mean()) / total, offsets[:-1]) for c in columns], axis=1)


def rate_parent(inputs: PlanInputs, parent: Plan) -> Assignment:
    """Return the figures of the placement that stands, under the heat of now."""
    _, memory, _ = node_arrays(inputs)
    split, node = parent.column("split"), parent.column("node").astype(np.int32)
    train = int((split == TRAIN).sum())
    problem = balance_problem(inputs, parent.sample_ids, parent.offsets[: train + 1], node[:train], memory)
    return rate_assignment(problem, node[:train])
