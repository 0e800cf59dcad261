"""Compare two committed layouts of a dataset: what became of chunks, rows, nodes, shards and splits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from foreshard.errors import CorruptDataError
from foreshard.keys import LayoutRef
from foreshard.shards.columns import fixed_binary
from foreshard.shards.gc_report import Amount
from foreshard.shards.manifest import Manifest
from foreshard.shards.repository import Repository
from foreshard.splits import check_splits_stable


@dataclass(frozen=True)
class NodeMove:
    """Chunks that both layouts have, read by another node in the new one; `bytes` as they are stored there."""

    source: str
    target: str
    chunks: int
    bytes: int


@dataclass(frozen=True)
class LayoutDiff:
    """What differs between two layouts.

    A chunk is the same where it holds the same samples, a shard where its object is the same.

    Attributes:
        old: one layout.
        new: the other.
        strategies: of both.
        nodes: names of the nodes of both.
        fingerprints: snapshots of both.
        chunks: `common`, `new` and `gone` ones with their bytes.
        rows: of the samples that both layouts hold, those that are in the same chunk (`common`) or not (`moved`);
            samples that only one of them holds (`new`, `gone`).
        moves: chunks that changed node, most bytes first.
        shards: `common`, `new` and `gone` objects with their bytes.
        split_problem: what is wrong with the splits of the samples that both hold; None if they agree.
    """

    old: LayoutRef
    new: LayoutRef
    strategies: tuple[str, str]
    nodes: tuple[tuple[str, ...], tuple[str, ...]]
    fingerprints: tuple[str, str]
    chunks: Mapping[str, Amount]
    rows: Mapping[str, int]
    moves: tuple[NodeMove, ...]
    shards: Mapping[str, Amount]
    split_problem: str | None

    @property
    def write_amplification(self) -> float | None:
        """Bytes of new shard objects over bytes of new chunks; None where no chunk is new."""
        needed = self.chunks["new"].bytes
        return self.shards["new"].bytes / needed if needed else None


def compare_layouts(repository: Repository, old: LayoutRef, new: LayoutRef) -> LayoutDiff:
    """Return what differs between two layouts; no shard is read.

    Args:
        repository: has both.
        old: one layout.
        new: the other.

    Raises:
        ObjectNotFoundError: one of them is not committed, or its snapshot is not recorded.
        CorruptDataError: a part of them is missing or damaged.
    """
    before, after = repository.open(old), repository.open(new)
    prints = before.header.fingerprint, after.header.fingerprint
    shared = rows_in_both(repository, *prints)
    match = _match(repository, before, after, shared)
    same, gone = match >= 0, np.ones(len(before), np.bool_)
    gone[match[same]] = False
    common_rows = int(after.rows[same].sum())
    return LayoutDiff(
        old=old,
        new=new,
        strategies=(before.header.strategy, after.header.strategy),
        nodes=(before.header.nodes, after.header.nodes),
        fingerprints=prints,
        chunks={
            "common": _amount(after.nbytes, same),
            "new": _amount(after.nbytes, ~same),
            "gone": _amount(before.nbytes, gone),
        },
        rows={
            "common": common_rows,
            "moved": shared - common_rows,
            "new": after.header.rows - shared,
            "gone": before.header.rows - shared,
        },
        moves=_moves(before, after, match),
        shards=_shards(before, after),
        split_problem=compare_splits(repository, *prints),
    )


def rows_in_both(repository: Repository, old: str, new: str) -> int:
    """Return how many samples, from the first on, are the same rows in two snapshots: those of their common files.

    Args:
        repository: has both recorded.
        old: fingerprint of one.
        new: fingerprint of the other.

    Raises:
        ObjectNotFoundError: one is not recorded.
        CorruptDataError: its record is damaged.
    """
    earlier, later = repository.load_snapshot(old), repository.load_snapshot(new)
    rows = 0
    for one, other in zip(earlier.files, later.files, strict=False):
        if one.content != other.content:
            break
        rows += one.rows
    return rows


def compare_splits(repository: Repository, old: str, new: str) -> str | None:
    """Return what is wrong with the splits of the samples that are the same in two snapshots; None if they agree.

    Args:
        repository: has both recorded.
        old: fingerprint of the earlier one.
        new: fingerprint of the later one.

    Raises:
        ObjectNotFoundError: one is not recorded.
        CorruptDataError: its record is damaged.
    """
    rows = rows_in_both(repository, old, new)
    earlier, later = repository.load_splits(old), repository.load_splits(new)
    try:
        check_splits_stable(earlier[:rows], later[:rows])
    except CorruptDataError as error:
        return str(error)
    return None


def _match(repository: Repository, before: Manifest, after: Manifest, shared: int) -> NDArray[np.int64]:
    """Return the old chunk of the same samples for each of the new ones, -1 where there is none, shape (C,)."""
    known, names = (repository.consistency(each.ref).column("content_id") for each in (before, after))
    match = pc.index_in(names, value_set=known).fill_null(-1).to_numpy().astype(np.int64)
    # The numbers of samples that only one snapshot has mean other rows in the other.
    match[after.chunk_of[shared:]] = -1
    return match


def _moves(before: Manifest, after: Manifest, match: NDArray[np.int64]) -> tuple[NodeMove, ...]:
    names = np.array([*before.header.nodes, *after.header.nodes])
    source = before.nodes[np.maximum(match, 0)].astype(np.int64)
    target = after.nodes.astype(np.int64) + len(before.header.nodes)
    moved = np.flatnonzero((match >= 0) & (names[source] != names[target]))
    pairs, code = np.unique(np.stack([source[moved], target[moved]]), axis=1, return_inverse=True)
    code = code.reshape(-1)
    chunks = np.bincount(code, minlength=pairs.shape[1]).tolist()
    sizes = np.bincount(code, after.nbytes[moved], pairs.shape[1]).astype(np.int64).tolist()
    found = zip(names[pairs[0]].tolist(), names[pairs[1]].tolist(), chunks, sizes, strict=True)
    return tuple(sorted((NodeMove(*each) for each in found), key=lambda move: -move.bytes))


def _shards(before: Manifest, after: Manifest) -> dict[str, Amount]:
    old, new = fixed_binary(before.shard_digests), fixed_binary(after.shard_digests)
    kept, stays = (_is_in(new, old), _is_in(old, new))
    return {
        "common": _amount(after.shard_sizes, kept),
        "new": _amount(after.shard_sizes, ~kept),
        "gone": _amount(before.shard_sizes, ~stays),
    }


def _is_in(values: "pa.Array[Any]", others: "pa.Array[Any]") -> NDArray[np.bool_]:
    return pc.is_in(values, value_set=others).to_numpy(zero_copy_only=False).astype(np.bool_)


def _amount(sizes: NDArray[np.int64], chosen: NDArray[np.bool_]) -> Amount:
    return Amount(int(np.count_nonzero(chosen)), int(sizes[chosen].sum()))
