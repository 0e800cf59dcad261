"""What follows from a plan alone, before any row is read: the seed of every chunk and the order of its rows."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreshard.errors import PlanError
from foreshard.layout.contents import Contents, shard_contents
from foreshard.layout.plan import Plan
from foreshard.shards.chunk_order import chunk_seeds, order_digests, stored_order
from foreshard.source import Snapshot


@dataclass(frozen=True, eq=False)
class ChunkOrder:
    """The M stored chunks of a plan, shard after shard, seeded and shuffled.

    Attributes:
        contents: which chunk each of them is.
        offsets: (M + 1,) int64, where each begins in `stored`.
        stored: int64, sample ids chunk after chunk, in stored order.
        seeds: (M, 16) uint8.
        place: (C,) int64, where the plan's chunks are among the M.
    """

    contents: Contents
    offsets: NDArray[np.int64]
    stored: NDArray[np.int64]
    seeds: NDArray[np.uint8]
    place: NDArray[np.int64]

    def rows_of(self, shard: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the sample ids of a shard in stored order, and where its chunks begin in them (with the end)."""
        members = self.contents.members(shard)
        bounds = self.offsets[members.start : members.stop + 1]
        return self.stored[bounds[0] : bounds[-1]], bounds - bounds[0]

    def orders(self) -> NDArray[np.uint8]:
        """Return the SHA-256 of the sample ids of each of the plan's chunks in stored order, shape (C, 32)."""
        return order_digests(self.stored, self.offsets)[self.place]


def check_plan_covers(plan: Plan, snapshot: Snapshot) -> None:
    """Check that a plan is for this snapshot, covers it exactly, and mixes neither nodes nor splits in a shard.

    Raises:
        PlanError: it does not; the message names the snapshot, the counts or the shard.
    """
    if plan.fingerprint != snapshot.fingerprint:
        raise PlanError(
            f"plan {plan.digest} is for snapshot {plan.fingerprint}, the reader has {snapshot.fingerprint}; "
            "take a new plan or open the plan's snapshot"
        )
    rows = plan.column("rows").astype(np.int64)
    if (rows < 1).any() or int(rows.sum()) != len(plan.sample_ids):
        raise PlanError(f"plan {plan.digest} has chunks of {rows.sum()} rows and lists {len(plan.sample_ids)} samples")
    counts = np.bincount(plan.sample_ids[plan.sample_ids >= 0], minlength=snapshot.rows)
    if len(plan.sample_ids) != snapshot.rows or len(counts) != snapshot.rows or (counts != 1).any():
        raise PlanError(
            f"plan {plan.digest} lists {len(plan.sample_ids)} samples, not each of 0..{snapshot.rows - 1} exactly once"
        )
    shard = plan.column("shard").astype(np.int64)
    written = np.flatnonzero(shard >= plan.inherited.shards)
    _check_pure(plan, shard[written], plan.column("node")[written], "node")
    _check_pure(plan, shard, plan.column("split"), "split")


def _check_pure(plan: Plan, shard: NDArray[np.int64], value: NDArray[np.generic], what: str) -> None:
    order = np.lexsort((value, shard))
    mixed = (np.diff(shard[order]) == 0) & (np.diff(value[order].astype(np.int64)) != 0)
    if mixed.any():
        raise PlanError(f"shard {shard[order][1:][mixed][0]} of plan {plan.digest} mixes chunks of several {what}s")


def order_chunks(plan: Plan) -> ChunkOrder:
    """Seed every chunk of a plan and shuffle its rows; a function of origin and membership."""
    contents = shard_contents(plan)
    everything = np.arange(len(contents.shard))
    offsets = np.concatenate([[0], np.cumsum(contents.rows)]).astype(np.int64)
    seeds = chunk_seeds(contents.content_ids, contents.origin[contents.shard], contents.origins)
    stored = stored_order(contents.sample_ids(everything), offsets, seeds)
    live = np.flatnonzero(contents.chunk >= 0)
    place = np.empty(len(live), np.int64)
    place[contents.chunk[live]] = live
    return ChunkOrder(contents, offsets, stored, seeds, place)
