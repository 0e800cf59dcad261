"""What follows from a plan alone, before any row is read: the seed of every chunk and the order of its rows."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foreshard.errors import PlanError
from foreshard.seeding import Origin
from foreshard.shards.chunk_order import chunk_seeds, order_digests, sorted_inside, stored_order
from foreshard.shards.columns import binary_rows
from foreshard.source import Snapshot

if TYPE_CHECKING:
    from foreshard.layout.plan import Plan


@dataclass(frozen=True)
class ChunkOrder:
    """The chunks of a plan, seeded and shuffled.

    Attributes:
        shard: (C,) int64, dense shard number.
        offsets: (C + 1,) int64, where each chunk begins in `stored`.
        stored: (n,) int64, sample ids chunk after chunk, in stored order.
        content_ids: (C, 16) uint8.
        seeds: (C, 16) uint8.
        orders: (C, 32) uint8, SHA-256 of each chunk's ids in stored order.
    """

    shard: NDArray[np.int64]
    offsets: NDArray[np.int64]
    stored: NDArray[np.int64]
    content_ids: NDArray[np.uint8]
    seeds: NDArray[np.uint8]
    orders: NDArray[np.uint8]

    def of_shard(self) -> list[NDArray[np.int64]]:
        """Return the chunks of every shard, ascending."""
        order = np.argsort(self.shard, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(self.shard[order])) + 1)

    def ids(self, chunk: int) -> NDArray[np.int64]:
        """Return a chunk's sample ids in stored order."""
        return self.stored[self.offsets[chunk] : self.offsets[chunk + 1]]


def check_plan_covers(plan: "Plan", snapshot: Snapshot) -> None:
    """Check that a plan is for this snapshot, covers it exactly, and mixes neither nodes nor splits in a shard.

    Raises:
        PlanError: it does not; the message names the snapshot, the counts or the shard.
    """
    if plan.fingerprint != snapshot.fingerprint:
        raise PlanError(
            f"plan {plan.digest} is for snapshot {plan.fingerprint}, the reader has {snapshot.fingerprint}; "
            "take a new plan or open the plan's snapshot"
        )
    rows = plan_column(plan, "rows")
    if (rows < 1).any() or int(rows.sum()) != len(plan.sample_ids):
        raise PlanError(f"plan {plan.digest} has chunks of {rows.sum()} rows and lists {len(plan.sample_ids)} samples")
    if len(plan.sample_ids) != snapshot.rows or (np.sort(plan.sample_ids) != np.arange(snapshot.rows)).any():
        raise PlanError(
            f"plan {plan.digest} lists {len(plan.sample_ids)} samples, not each of 0..{snapshot.rows - 1} exactly once"
        )
    shard = plan_column(plan, "shard")
    for what in ("node", "split"):
        value = plan_column(plan, what)
        order = np.lexsort((value, shard))
        mixed = (np.diff(shard[order]) == 0) & (np.diff(value[order].astype(np.int64)) != 0)
        if mixed.any():
            raise PlanError(f"shard {shard[order][1:][mixed][0]} of plan {plan.digest} mixes chunks of several {what}s")


def plan_column(plan: "Plan", name: str) -> NDArray[Any]:
    """Return a column of the plan's chunk table."""
    return plan.chunks.column(name).to_numpy()


def order_chunks(plan: "Plan") -> ChunkOrder:
    """Seed every chunk of a plan and shuffle its rows; a function of snapshot, membership, strategy and root seed."""
    rows = plan_column(plan, "rows").astype(np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(rows)])
    content_ids = binary_rows(plan.chunks.column("content_id"))
    origins = [Origin(plan.fingerprint, plan.strategy, plan.root_seed)]
    seeds = chunk_seeds(content_ids, np.zeros(len(rows), np.int16), origins)
    stored = stored_order(sorted_inside(plan.sample_ids, offsets), offsets, seeds)
    orders = order_digests(stored, offsets)
    _, shard = np.unique(plan_column(plan, "shard"), return_inverse=True)
    return ChunkOrder(shard, offsets, stored, content_ids, seeds, orders)
