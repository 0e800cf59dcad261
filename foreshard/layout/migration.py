"""From one plan to the next: which shards are reused, written and retired, which chunks change nodes, at what cost."""

from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.layout.contents import Contents, shard_contents
from foreshard.layout.plan import Plan

MIGRATION_SCHEMA: Final = pa.schema(
    [
        ("step", pa.int32()),
        ("action", pa.string()),
        ("shard", pa.int32()),
        ("node", pa.int32()),
        ("bytes", pa.float64()),
        ("source", pa.string()),
        ("target", pa.string()),
        ("reason", pa.string()),
    ]
)
"""The steps of a migration, in order.

`reuse`: a shard object of the old layout serves the new one. `write`: a shard is made from the source. `reassign`:
chunks stay where they are in the store and are read by another node (`shard` is -1). `retire`: an old shard object that
the new layout does not use; `shard` and `node` are numbers of the old plan, and `gc` deletes it once nobody reads it.
"""


def migration_steps(old: Plan | None, new: Plan, row_bytes: float) -> pa.Table:
    """Return the ordered steps from one plan to the next.

    Shards with equal content are reused, whatever node they were bound for; then the others are written, most draws
    per byte first, so that a half-done migration has done the useful half; then chunks in reused shards change nodes;
    then the old shards that nothing uses are retired, after publication.

    Args:
        old: what is published, None at bootstrap.
        new: what shall be.
        row_bytes: bytes of a row.

    Returns:
        `MIGRATION_SCHEMA`.
    """
    contents, before = shard_contents(new), shard_contents(old) if old is not None else None
    former = {name: number for number, name in enumerate(before.names)} if before is not None else {}
    was = np.array([former.get(name, -1) for name in contents.names], np.int64)
    tables = [_reused(new, contents, was, row_bytes, old), _written(new, contents, was, row_bytes, _why(old, new))]
    if old is not None and before is not None:
        tables += [_reassigned(old, new, row_bytes), _retired(old, before, set(contents.names), row_bytes)]
    steps = pa.concat_tables(tables)
    return steps.set_column(0, "step", pa.array(np.arange(steps.num_rows, dtype=np.int32)))


def write_order(contents: Contents) -> NDArray[np.int64]:
    """Return the shards of a plan with most draws per row first, shape (S,): the order in which to write them."""
    heat = _per_shard(contents, contents.plan.column("heat").astype(np.float64))
    rows = _per_shard(contents, contents.plan.column("rows").astype(np.float64))
    return np.argsort(-heat / np.maximum(rows, 1.0), kind="stable")


def written_bytes(steps: pa.Table) -> float:
    """Return the bytes that a migration writes."""
    return float(_writes(steps).column("bytes").to_numpy().sum())


def migration_seconds(steps: pa.Table, bandwidth: NDArray[np.float64], latency_s: float) -> float:
    """Return the seconds a migration takes: every written byte is read once and written once, nodes work in parallel.

    Args:
        steps: `MIGRATION_SCHEMA`.
        bandwidth: shape (K,) bytes per second of each node.
        latency_s: seconds per request.
    """
    written = _writes(steps)
    node = written.column("node").to_numpy().astype(np.int64)
    size = written.column("bytes").to_numpy()
    seconds = 2 * (
        np.bincount(node, size, len(bandwidth)) / bandwidth + latency_s * np.bincount(node, minlength=len(bandwidth))
    )
    return float(seconds.max())


# -- the kinds of steps --------------------------------------------------------------------------------


def _writes(steps: pa.Table) -> pa.Table:
    import pyarrow.compute as pc  # some 10 MiB, which a training job can do without

    return steps.filter(pc.equal(steps.column("action"), pa.scalar("write")))


def _reused(new: Plan, contents: Contents, was: NDArray[np.int64], row_bytes: float, old: Plan | None) -> pa.Table:
    shards = np.flatnonzero(was >= 0)
    source = [f"shard {number} of {old.generation if old else ''}" for number in was[shards].tolist()]
    target = [f"shard {number} of {new.generation}" for number in shards.tolist()]
    size = _per_shard(contents, new.column("rows").astype(np.float64))[shards] * row_bytes
    return _steps("reuse", shards, _nodes(contents)[shards], size, source, target, "same content as before")


def _written(new: Plan, contents: Contents, was: NDArray[np.int64], row_bytes: float, why: str) -> pa.Table:
    order = write_order(contents)
    shards = order[was[order] < 0]
    node = _nodes(contents)[shards]
    target = [f"shard {s} on {new.nodes[n]}" for s, n in zip(shards.tolist(), node.tolist(), strict=True)]
    source = [f"snapshot {new.fingerprint}"] * len(shards)
    size = np.bincount(contents.shard, contents.rows * row_bytes, contents.shards)[shards]
    return _steps("write", shards, node, size, source, target, why)


def _reassigned(old: Plan, new: Plan, row_bytes: float) -> pa.Table:
    """Return the bytes that go from one node to another without being written, a step for each pair of nodes."""
    import pyarrow.compute as pc  # see `_writes`

    known = old.chunks.column("content_id").combine_chunks()
    match = pc.index_in(new.chunks.column("content_id"), value_set=known).fill_null(-1).to_numpy().astype(np.int64)
    names = np.array([*old.nodes, *new.nodes])
    before = old.column("node")[np.maximum(match, 0)].astype(np.int64)
    after = new.column("node").astype(np.int64) + len(old.nodes)
    moved = np.flatnonzero((match >= 0) & (names[before] != names[after]))
    pair, code = np.unique(np.stack([before[moved], after[moved]]), axis=1, return_inverse=True)
    rows = new.column("rows")[moved].astype(np.float64)
    size = np.bincount(code.reshape(-1), rows, pair.shape[1]) * row_bytes
    return _steps(
        "reassign",
        np.full(pair.shape[1], -1),
        pair[1] - len(old.nodes),
        size,
        names[pair[0]].tolist(),
        names[pair[1]].tolist(),
        "work is balanced anew; the bytes stay where they are in the store",
    )


def _retired(old: Plan, before: Contents, kept: set[bytes], row_bytes: float) -> pa.Table:
    # A shard whose chunks have partly retired has the same object and the same name.
    gone = np.array([number for number, name in enumerate(before.names) if name not in kept], np.int64)
    size = np.bincount(before.shard, before.rows * row_bytes, before.shards)[gone]
    source = [f"shard {number} of {old.generation}" for number in gone.tolist()]
    why = "no chunk of the new layout lies in it"
    return _steps("retire", gone, _nodes(before)[gone], size, source, [""] * len(gone), why)


def _steps(
    action: str,
    shards: NDArray[np.integer],
    nodes: NDArray[np.integer],
    nbytes: NDArray[Any],
    source: list[str],
    target: list[str],
    reason: str,
) -> pa.Table:
    columns: list[pa.Array[Any]] = [
        pa.array(np.zeros(len(shards), np.int32)),
        pa.array([action] * len(shards), pa.string()),
        pa.array(shards.astype(np.int32)),
        pa.array(nodes.astype(np.int32)),
        pa.array(nbytes.astype(np.float64)),
        pa.array(source, pa.string()),
        pa.array(target, pa.string()),
        pa.array([reason] * len(shards), pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=MIGRATION_SCHEMA)


def _why(old: Plan | None, new: Plan) -> str:
    if old is None:
        return "first layout"
    if old.fingerprint != new.fingerprint:
        return "the source has a new snapshot"
    if old.strategy != new.strategy:
        return f"strategy {new.strategy} instead of {old.strategy}"
    return "its chunks changed"


def _per_shard(contents: Contents, value: NDArray[Any]) -> NDArray[np.float64]:
    """Sum a figure of the plan's chunks, shape (C,), over each shard, shape (S,)."""
    shard = contents.plan.column("shard").astype(np.int64)
    return np.bincount(shard, value, contents.shards).astype(np.float64)


def _nodes(contents: Contents) -> NDArray[np.int32]:
    """Return the node of each shard, that of its first chunk in use, shape (S,)."""
    live = np.flatnonzero(contents.chunk >= 0)
    shard, first = np.unique(contents.shard[live], return_index=True)
    node = np.zeros(contents.shards, np.int32)
    node[shard] = contents.plan.column("node")[contents.chunk[live[first]]]
    return node
