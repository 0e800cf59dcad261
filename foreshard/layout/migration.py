"""From one plan to the next: which shards are written, reused and retired, in which order, and what that costs."""

import hashlib
from itertools import pairwise
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from foreshard.layout.plan import Plan

MIGRATION_SCHEMA: Final = pa.schema(
    [
        ("step", pa.int32()),
        ("action", pa.string()),
        ("shard", pa.int32()),
        ("node", pa.int32()),
        ("bytes", pa.float64()),
        ("reason", pa.string()),
    ]
)
"""One row per shard; the shard and node of a retired one are numbers of the old plan."""


def shard_names(plan: Plan) -> list[bytes]:
    """Return a digest per shard of all that its bytes follow from, in shard order.

    That is its chunks' contents in order, and what keys their seeds: snapshot, strategy and root seed.
    """
    shard = plan.column("shard").astype(np.int64)
    order = np.argsort(shard, kind="stable")
    ids = plan.content_bytes()[order].tobytes()
    bounds = np.concatenate([[0], np.cumsum(np.bincount(shard))]).tolist() if len(shard) else [0]
    salt = f"{plan.fingerprint}|{plan.strategy}|{plan.root_seed}|".encode()
    return [
        hashlib.blake2b(salt + ids[16 * start : 16 * stop], digest_size=16).digest() for start, stop in pairwise(bounds)
    ]


def migration_steps(old: Plan | None, new: Plan, row_bytes: float) -> pa.Table:
    """Return the ordered steps from one plan to the next.

    Shards with equal content are reused, whatever node they were bound for; then the others are written, most draws
    per byte first, so that a half-done migration has done the useful half; then the old ones that nothing uses are
    retired, after publication.

    Args:
        old: what is published, None at bootstrap.
        new: what shall be.
        row_bytes: bytes of a row.

    Returns:
        `MIGRATION_SCHEMA`.
    """
    names, known = shard_names(new), set(shard_names(old)) if old is not None else set[bytes]()
    node, nbytes, heat = _per_shard(new, row_bytes)
    reused = np.array([name in known for name in names], np.bool_)
    density = heat / np.maximum(nbytes, 1.0)
    order = np.lexsort((np.arange(len(names)), np.where(reused, 0.0, -density), ~reused))
    actions = np.where(reused[order], "reuse", "write").tolist()
    reasons = np.where(reused[order], "same content as before", _why(old, new)).tolist()
    shards, nodes, sizes = order.astype(np.int32), node[order], nbytes[order]
    if old is not None:
        kept = set(names)
        gone = np.array([i for i, name in enumerate(shard_names(old)) if name not in kept], np.int32)
        old_node, old_bytes, _ = _per_shard(old, row_bytes)
        actions += ["retire"] * len(gone)
        reasons += ["no chunk of the new layout lies in it"] * len(gone)
        shards, nodes = np.concatenate([shards, gone]), np.concatenate([nodes, old_node[gone]])
        sizes = np.concatenate([sizes, old_bytes[gone]])
    columns: list[pa.Array[Any]] = [
        pa.array(np.arange(len(shards), dtype=np.int32)),
        pa.array(actions, pa.string()),
        pa.array(shards),
        pa.array(nodes),
        pa.array(sizes),
        pa.array(reasons, pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=MIGRATION_SCHEMA)


def written_bytes(steps: pa.Table) -> float:
    """Return the bytes that a migration writes."""
    total = pc.sum(steps.filter(pc.equal(steps.column("action"), pa.scalar("write"))).column("bytes")).as_py()
    return float(total or 0.0)


def migration_seconds(steps: pa.Table, bandwidth: NDArray[np.float64], latency_s: float) -> float:
    """Return the seconds a migration takes: every written byte is read once and written once, nodes work in parallel.

    Args:
        steps: `MIGRATION_SCHEMA`.
        bandwidth: shape (K,) bytes per second of each node.
        latency_s: seconds per request.
    """
    written = steps.filter(pc.equal(steps.column("action"), pa.scalar("write")))
    node = written.column("node").to_numpy().astype(np.int64)
    size = written.column("bytes").to_numpy()
    seconds = 2 * (
        np.bincount(node, size, len(bandwidth)) / bandwidth + latency_s * np.bincount(node, minlength=len(bandwidth))
    )
    return float(seconds.max())


def _why(old: Plan | None, new: Plan) -> str:
    if old is None:
        return "first layout"
    if old.fingerprint != new.fingerprint:
        return "the source has a new snapshot"
    if old.strategy != new.strategy:
        return f"strategy {new.strategy} instead of {old.strategy}"
    return "its chunks changed"


def _per_shard(plan: Plan, row_bytes: float) -> tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.float64]]:
    shard = plan.column("shard").astype(np.int64)
    count = int(shard.max()) + 1 if len(shard) else 0
    node = np.zeros(count, np.int32)
    node[shard] = plan.column("node")
    rows = plan.column("rows").astype(np.float64)
    nbytes = np.bincount(shard, rows * row_bytes, count).astype(np.float64)
    return node, nbytes, np.bincount(shard, plan.column("heat").astype(np.float64), count).astype(np.float64)
