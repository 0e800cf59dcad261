"""Where every stored chunk of a plan lies: known from the parent or an interrupted attempt, or as its shard is put."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreshard.layout.contents import Contents, shard_contents
from foreshard.layout.plan import Plan
from foreshard.shards.header import ShardRef
from foreshard.shards.manifest import Manifest


@dataclass(frozen=True, eq=False)
class PutShard:
    """One shard object and its m chunks in stored order.

    Attributes:
        number: the shard's number in the plan.
        ref: the object.
        starts: (m,) int64, first byte of each chunk; -1 where it is not known, for a retired one.
        ends: (m,) int64, first byte after it.
        checksums: (m,) uint64, XXH3-64 of its bytes.
        written: whether the object was sent now, not found in place.
    """

    number: int
    ref: ShardRef
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    checksums: NDArray[np.uint64]
    written: bool


@dataclass(frozen=True)
class Base:
    """A layout whose shards may serve a new plan: its plan and its manifest."""

    plan: Plan
    manifest: Manifest


class ShardTable:
    """Collects the shard objects of a plan.

    Args:
        contents: what the shards hold.
    """

    def __init__(self, contents: Contents) -> None:
        self.contents = contents
        count = len(contents.shard)
        self.starts = np.full(count, -1, np.int64)
        self.ends = np.full(count, -1, np.int64)
        self.checksums = np.zeros(count, np.uint64)
        self.shards: dict[int, PutShard] = {}

    def add(self, shard: PutShard) -> None:
        """Take in a shard."""
        members = self.contents.members(shard.number)
        self.starts[members], self.ends[members] = shard.starts, shard.ends
        self.checksums[members] = shard.checksums
        self.shards[shard.number] = shard

    def missing(self, order: NDArray[np.int64]) -> list[int]:
        """Return the shards not taken in yet, in the given order."""
        return [number for number in order.tolist() if number not in self.shards]

    def in_order(self) -> list[PutShard]:
        """Return all shards by number."""
        return [self.shards[number] for number in range(self.contents.shards)]


def shards_of_base(contents: Contents, base: Base) -> list[PutShard]:
    """Return the shards that the base's objects serve as they are: those of equal name, hence equal bytes."""
    old, manifest = shard_contents(base.plan), base.manifest
    known = {name: number for number, name in enumerate(old.names)}
    found: list[PutShard] = []
    for number, name in enumerate(contents.names):
        if name not in known:
            continue
        chunks = old.chunk[old.members(known[name])]
        alive, at = chunks >= 0, np.maximum(chunks, 0)
        wanted = contents.chunk[contents.members(number)] >= 0
        if (wanted & ~alive).any():  # a chunk came back that the base's manifest no longer places
            continue
        found.append(
            PutShard(
                number,
                manifest.shards[known[name]],
                np.where(alive, manifest.starts[at], -1),
                np.where(alive, manifest.ends[at], -1),
                np.where(alive, manifest.checksums[at], 0).astype(np.uint64),
                written=False,
            )
        )
    return found
