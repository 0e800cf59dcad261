"""What every shard object of a plan holds: the plan's chunks, and those that inherited shards still carry."""

import hashlib
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from foreshard.layout.plan import Plan, chunk_content_ids
from foreshard.seeding import canonical_bytes

if TYPE_CHECKING:
    from foreshard.seeding import Origin


@dataclass(frozen=True, eq=False)
class Contents:
    """The M stored chunks of a plan's S shards: shard after shard, in stored order.

    Attributes:
        plan: whose they are.
        shard: (M,) int32, ascending.
        chunk: (M,) int32, number in the plan; -1 for a retired one.
        retired: (M,) int32, number among the retired ones; -1 for a chunk of the plan.
        rows: (M,) int64, samples.
        content_ids: (M, 16) uint8.
        bounds: (S + 1,) int64, where each shard's chunks begin and end in these arrays.
        origin: (S,) int16, position in `origins` of each shard.
    """

    plan: Plan
    shard: NDArray[np.int32]
    chunk: NDArray[np.int32]
    retired: NDArray[np.int32]
    rows: NDArray[np.int64]
    content_ids: NDArray[np.uint8]
    bounds: NDArray[np.int64]
    origin: NDArray[np.int16]

    @property
    def shards(self) -> int:
        """Number of shards."""
        return len(self.origin)

    @property
    def origins(self) -> "tuple[Origin, ...]":
        """What the bytes of shards follow from; the last one is the plan's own."""
        return (*self.plan.inherited.origins, self.plan.origin)

    def members(self, shard: int) -> slice:
        """Return where a shard's chunks are in these arrays."""
        return slice(int(self.bounds[shard]), int(self.bounds[shard + 1]))

    @cached_property
    def names(self) -> list[bytes]:
        """A digest per shard of all that its bytes follow from, in shard order: equal names, equal bytes."""
        salts = [hashlib.blake2b(canonical_bytes(asdict(origin)), digest_size=16).digest() for origin in self.origins]
        raw, bounds = memoryview(self.content_ids.tobytes()), (self.bounds * 16).tolist()
        return [
            hashlib.blake2b(salts[origin] + raw[start:stop].tobytes(), digest_size=16).digest()
            for origin, (start, stop) in zip(self.origin.tolist(), pairwise(bounds), strict=True)
        ]

    def sample_ids(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the sample ids of stored chunks, chunk after chunk, ascending inside a chunk."""
        inherited = self.plan.inherited
        pool = np.concatenate([self.plan.sample_ids, inherited.retired_ids])
        starts = np.concatenate([self.plan.offsets[:-1], len(self.plan.sample_ids) + _starts(inherited.retired_rows)])
        live = len(self.plan.offsets) - 1
        source = np.where(self.chunk[positions] >= 0, self.chunk[positions], live + self.retired[positions])
        rows = self.rows[positions]
        within = np.arange(int(rows.sum())) - np.repeat(_starts(rows), rows)
        return pool[np.repeat(starts[source], rows) + within]


def shard_contents(plan: Plan) -> Contents:
    """Return what every shard of a plan holds."""
    inherited = plan.inherited
    live, retired = len(plan.offsets) - 1, len(inherited.retired_rows)
    shard = np.concatenate([plan.column("shard"), inherited.retired_shard]).astype(np.int32)
    slot = np.concatenate([plan.slot, inherited.retired_slot])
    order = np.lexsort((slot, shard))
    rows = np.concatenate([plan.column("rows"), inherited.retired_rows]).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(inherited.retired_rows)]).astype(np.int64)
    gone = np.frombuffer(b"".join(chunk_content_ids(inherited.retired_ids, offsets)), np.uint8).reshape(-1, 16)
    counts = np.bincount(shard) if len(shard) else np.zeros(0, np.int64)
    origin = np.full(len(counts), len(inherited.origins), np.int16)
    origin[: inherited.shards] = inherited.shard_origin
    return Contents(
        plan=plan,
        shard=shard[order],
        chunk=np.where(order < live, order, -1).astype(np.int32),
        retired=np.where(order < live, -1, order - live).astype(np.int32),
        rows=rows[order],
        content_ids=np.concatenate([plan.content_bytes(), gone])[order] if retired else plan.content_bytes()[order],
        bounds=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        origin=origin,
    )


def _starts(rows: NDArray[np.integer]) -> NDArray[np.int64]:
    return (np.cumsum(rows) - rows).astype(np.int64)
