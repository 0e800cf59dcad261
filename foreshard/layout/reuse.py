"""Which shards of the layout in place the next one takes over: only chunks of new content are written."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from foreshard.layout.contents import shard_contents
from foreshard.layout.inherited import Inherited
from foreshard.layout.packing import pack_shards
from foreshard.layout.plan import Plan, slots_in_turn

SPARE: Final = 0.08
"""Unchanged bytes that may be written again to leave mostly dead shards behind, over the bytes that must be written."""

MOSTLY_DEAD: Final = 0.5
"""A shard of which less than this is in use is worth writing again while there is something to spare."""

MOST_DEAD: Final = 1.0
"""Bytes that retired chunks may take up over those in use; beyond, the worst shards are written again at any price."""


@dataclass(frozen=True, eq=False)
class Reuse:
    """Where the chunks of a new layout lie in shards of the old one.

    Attributes:
        shard: (C,) int32, number of the inherited shard; -1 for chunks that must be written.
        inherited: those shards; its `slot` is -1 for chunks that must be written.
    """

    shard: NDArray[np.int32]
    inherited: Inherited


def pack_onto(
    parent: Plan | None,
    node: NDArray[np.int32],
    split: NDArray[np.uint8],
    nbytes: NDArray[np.float64],
    content_ids: list[bytes],
    target: int,
) -> tuple[NDArray[np.int32], Inherited]:
    """Return the shard of every chunk: an inherited one where the parent's shards hold it, else a new one.

    Args:
        parent: the plan of the layout in place, of the same snapshot; None where there is none.
        node: (C,) node of each chunk.
        split: (C,) its split.
        nbytes: (C,) its bytes.
        content_ids: C names of 16 bytes.
        target: bytes that a new shard should not exceed by more than a chunk.
    """
    reuse = reuse_shards(parent, split, nbytes, content_ids)
    fresh = np.flatnonzero(reuse.shard < 0)
    shard = reuse.shard.copy()
    shard[fresh] = reuse.inherited.shards + pack_shards(
        node[fresh], split[fresh], nbytes[fresh], [content_ids[chunk] for chunk in fresh.tolist()], target
    )
    if not reuse.inherited.shards:
        return shard, reuse.inherited
    slot = np.where(reuse.shard < 0, slots_in_turn(shard), reuse.inherited.slot).astype(np.int32)
    return shard, replace(reuse.inherited, slot=slot)


def reuse_shards(
    parent: Plan | None, split: NDArray[np.uint8], nbytes: NDArray[np.float64], content_ids: list[bytes]
) -> Reuse:
    """Find the chunks that the parent's shards hold already, and decide which of these shards to take over.

    An inherited shard object keeps chunks that the layout no longer has. So that they do not pile up, the most wasteful
    shards are left behind, and what is alive in them is written again: as far as it costs little (`SPARE`), and
    beyond that until the dead bytes are bounded (`MOST_DEAD`).

    Args:
        parent: the plan of the layout in place, of the same snapshot; None where there is none.
        split: (C,) split of the new layout's chunks.
        nbytes: (C,) their bytes.
        content_ids: their C names of 16 bytes.
    """
    nothing = Reuse(np.full(len(nbytes), -1, np.int32), Inherited())
    if parent is None or not len(nbytes):
        return nothing
    old = _match(parent, split, content_ids)
    if not (old >= 0).any():
        return nothing
    contents = shard_contents(parent)
    where = np.empty(len(parent.offsets) - 1, np.int64)  # of a parent's chunk among the stored ones
    stored = np.flatnonzero(contents.chunk >= 0)
    where[contents.chunk[stored]] = stored
    alive = np.zeros(len(contents.shard), np.bool_)
    alive[where[old[old >= 0]]] = True
    row_bytes = nbytes.sum() / len(parent.sample_ids)
    size = contents.rows * row_bytes
    total = np.bincount(contents.shard, size, contents.shards).astype(np.float64)
    live = np.bincount(contents.shard, size * alive, contents.shards).astype(np.float64)
    kept = _worth_keeping(live, total, spare=SPARE * float(nbytes[old < 0].sum()))
    return _take_over(parent, old, where, alive, kept)


def _match(parent: Plan, split: NDArray[np.uint8], content_ids: list[bytes]) -> NDArray[np.int64]:
    """Return the parent's chunk of the same content and split, -1 where there is none; shape (C,)."""
    known = parent.chunks.column("content_id").combine_chunks()
    found = pc.index_in(pa.array(content_ids, pa.binary(16)), value_set=known).fill_null(-1).to_numpy()
    old = found.astype(np.int64)
    same = parent.column("split")[np.maximum(old, 0)] == split
    return np.where((old >= 0) & same, old, -1)


def _worth_keeping(live: NDArray[np.float64], total: NDArray[np.float64], *, spare: float) -> NDArray[np.bool_]:
    """Return which shards to take over, shape (S,), given their bytes in use and in all."""
    share = live / np.maximum(total, 1.0)
    kept = live > 0
    worst = np.flatnonzero(kept)[np.argsort(share[kept], kind="stable")]
    cheap = (np.cumsum(live[worst]) <= spare) & (share[worst] < MOSTLY_DEAD)
    kept[worst[cheap]] = False
    rest = worst[~cheap]
    dead = (total - live)[rest]
    # Dead bytes that remain if the shards up to and with each one are left behind.
    left = dead.sum() - np.cumsum(dead)
    if dead.sum() > MOST_DEAD * live.sum():
        last = int(np.flatnonzero(left <= MOST_DEAD * live.sum())[0])
        kept[rest[: last + 1]] = False
    return kept


def _take_over(
    parent: Plan,
    old: NDArray[np.int64],
    where: NDArray[np.int64],
    alive: NDArray[np.bool_],
    kept: NDArray[np.bool_],
) -> Reuse:
    contents = shard_contents(parent)
    number = np.where(kept, np.cumsum(kept) - 1, -1).astype(np.int32)
    slot_of = (np.arange(len(contents.shard)) - contents.bounds[contents.shard]).astype(np.int32)
    at = where[np.maximum(old, 0)]
    shard = np.where(old >= 0, number[contents.shard[at]], -1).astype(np.int32)
    slot = np.where(shard >= 0, slot_of[at], -1).astype(np.int32)
    gone = np.flatnonzero(~alive & kept[contents.shard])
    inherited = Inherited(
        origins=contents.origins,
        slot=slot,
        shard_origin=contents.origin[kept],
        retired_shard=number[contents.shard[gone]],
        retired_slot=slot_of[gone],
        retired_rows=contents.rows[gone].astype(np.int32),
        retired_ids=contents.sample_ids(gone),
    )
    return Reuse(shard, _without_unused_origins(inherited) if kept.any() else Inherited())


def _without_unused_origins(inherited: Inherited) -> Inherited:
    used, code = np.unique(inherited.shard_origin, return_inverse=True)
    origins = [inherited.origins[position] for position in used.tolist()]
    return Inherited.from_arrays(origins, {**inherited.arrays(), "shard_origin": code})
