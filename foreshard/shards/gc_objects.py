"""What may be deleted once it is decided which layouts stay: columns of keys in the order of deletion.

The order is what makes a crash harmless: headers first, so that a layout that is not whole cannot be opened; then what
only they named; then what no one names.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.errors import StorageError
from foreshard.keys import DatasetKeys, LayoutRef
from foreshard.retention import RetentionConfig
from foreshard.shards.columns import binary_rows
from foreshard.shards.gc_layouts import HEADER, Chain, Decision, LayoutFiles
from foreshard.shards.header import Header, PartRef
from foreshard.shards.journal import read_journal
from foreshard.shards.parts import load_part
from foreshard.shards.refetch import refetch
from foreshard.shards.sealed import unseal
from foreshard.storage import ObjectMeta, ObjectStore
from foreshard.uploads import Upload

CATEGORIES: Final = ("header", "layout", "shard", "unfinished", "part", "journal", "publication", "lease")
"""Kinds of garbage, in the order in which they are deleted."""

GARBAGE_SCHEMA: Final = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("category", pa.dictionary(pa.int8(), pa.string()), nullable=False),
    ]
)
"""One row per object to delete, in order."""

_READS: Final = 8
_ONE_LISTING: Final = 200_000
_PREFIX_DIGITS: Final = 16
_SHARD: Final = re.compile(r"[0-9a-f]{2}/[0-9a-f]{64}\.arrow")
_PART_NAME: Final = re.compile(r"(manifest|index|shards|consistency|dictionaries|plan)-[0-9a-f]{16}\.arrow")
_PUBLICATION: Final = re.compile(r"f[0-9]{12}-[0-9a-f]{16,64}\.json")
_LEASE: Final = re.compile(r"(reader|writer|gc)-[0-9a-f]{16,64}\.json")


@dataclass(frozen=True)
class Scope:
    """What a collection looks at.

    Attributes:
        store: where the objects are.
        keys: their names.
        policy: what is kept.
        now: the time by the store's clock.
        tick: called now and then while much is read; may raise to end the collection.
    """

    store: ObjectStore
    keys: DatasetKeys
    policy: RetentionConfig
    now: datetime
    tick: Callable[[], None]

    def orphaned(self, meta: ObjectMeta) -> bool:
        """Whether an object that nothing names is old enough to go."""
        return self.now - meta.modified >= timedelta(hours=self.policy.orphan_hours)


def find_garbage(
    scope: Scope,
    layouts: Mapping[LayoutRef, LayoutFiles],
    decision: Decision,
    chain: Chain,
    leases: Sequence[ObjectMeta],
) -> pa.Table:
    """Return the objects to delete, rows of `GARBAGE_SCHEMA`.

    Args:
        scope: what to look at.
        layouts: from `find_layouts`.
        decision: which of them stay.
        chain: from `find_chain`.
        leases: objects of expired leases.

    Raises:
        CorruptDataError: a header or a list of shards of a layout that stays is damaged, so that nobody can tell which
            shards it needs.
    """
    doomed = [layouts[ref] for ref in decision.doomed]
    committed = {ref: files for ref, files in layouts.items() if ref in decision.kept}
    unfinished = {ref: files for ref, files in layouts.items() if files.header is None}
    abandoned = {ref: files for ref, files in unfinished.items() if all(scope.orphaned(m) for m in files.metas)}
    headers = _headers(scope, committed)
    needed = _needed(scope, headers, [ref for ref in unfinished if ref not in abandoned])
    found: dict[str, Iterable[tuple[Sequence[str], Sequence[int]]]] = {
        "header": [_columns(files.header for files in doomed if files.header)],
        "layout": [_columns(meta for files in doomed for meta in files.others.values())],
        "shard": _shards(scope, needed),
        "unfinished": [_columns(meta for files in abandoned.values() for meta in files.metas)],
        "part": [_columns(meta for header in headers for meta in _unnamed(scope, committed[header.ref], header))],
        "journal": [
            _columns(m for files in committed.values() for name, m in files.others.items() if _is_journal(name))
        ],
        "publication": [_columns(_lost(scope, chain))],
        "lease": [_columns(leases)],
    }
    tables = [_table(code, *columns) for code, name in enumerate(CATEGORIES) for columns in found[name]]
    return pa.concat_tables(tables).combine_chunks()


def find_uploads(scope: Scope) -> tuple[Upload, ...]:
    """Return the uploads that were begun below the dataset's prefix and are too old to be finished still."""
    oldest = scope.now - timedelta(hours=scope.policy.orphan_hours)
    prefix = f"{scope.keys.dataset}/"
    found = scope.store.uploads(scope.keys.dataset)
    return tuple(upload for upload in found if upload.key.startswith(prefix) and upload.started <= oldest)


def check_keys(keys: DatasetKeys, garbage: Sequence[str], kept: Collection[LayoutRef]) -> None:
    """Refuse to delete anything but what garbage collection may delete.

    Args:
        keys: names of the dataset's objects.
        garbage: what is about to be deleted.
        kept: layouts that stay.

    Raises:
        StorageError: a key is outside the dataset, or of an object that gc has no business with.
    """
    for key in garbage:
        if not _may_go(keys, key, kept):
            raise StorageError(f"gc of dataset {keys.dataset!r} was about to delete {key!r}, which it must not")


def _may_go(keys: DatasetKeys, key: str, kept: Collection[LayoutRef]) -> bool:
    for prefix, pattern in ((keys.shards, _SHARD), (keys.publications, _PUBLICATION), (keys.leases, _LEASE)):
        if key.startswith(prefix):
            return pattern.fullmatch(key, len(prefix)) is not None
    parsed = keys.parse_layout(key)
    if parsed is None:
        return False
    ref, name = parsed
    return ref not in kept or _is_journal(name) or _PART_NAME.fullmatch(name) is not None


# -- what is needed ------------------------------------------------------------------------------------


def _headers(scope: Scope, committed: Mapping[LayoutRef, LayoutFiles]) -> list[Header]:
    def read(item: tuple[LayoutRef, LayoutFiles]) -> Header:
        ref, _ = item
        key = scope.keys.layout(ref.generation, ref.plan_digest, HEADER)
        return refetch(scope.store, lambda: Header.from_json(scope.store.get(key), key))

    with ThreadPoolExecutor(_READS, "foreshard-gc") as pool:
        return list(pool.map(read, committed.items()))


def _needed(scope: Scope, headers: Sequence[Header], unfinished: Sequence[LayoutRef]) -> NDArray[np.uint64]:
    """Return the beginnings of the digests of all shards that are needed, sorted.

    Eight bytes of a digest tell 10 million shards apart; should two agree by chance, one too many is kept.
    """
    needed = np.zeros(0, np.uint64)
    for header in headers:
        part = load_part(scope.store, scope.keys, header.ref, header.parts["shards"])
        digests = binary_rows(pa.ipc.open_file(pa.BufferReader(part)).get_batch(0).column("sha256"))
        mine = np.ascontiguousarray(digests[:, : _PREFIX_DIGITS // 2]).view(">u8").reshape(-1).astype(np.uint64)
        needed = _joined(needed, mine)
        scope.tick()
    # What an interrupted materialisation has put is found there when it goes on.
    put = [shard.ref.key for ref in unfinished for shard in read_journal(scope.store, scope.keys, ref)]
    return _joined(needed, _beginnings(put))


def _joined(ascending: NDArray[np.uint64], more: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return both, sorted; layouts share most of their shards, so what is there already is left out first."""
    more = np.sort(more)
    return np.sort(np.concatenate([ascending, more[~_among(more, ascending)]]))


def _beginnings(shard_keys: Sequence[str]) -> NDArray[np.uint64]:
    digits = "".join([key.rpartition("/")[2][:_PREFIX_DIGITS] for key in shard_keys])
    return np.frombuffer(bytes.fromhex(digits), ">u8").astype(np.uint64)


# -- what is not ---------------------------------------------------------------------------------------


def _shards(scope: Scope, needed: NDArray[np.uint64]) -> Iterator[tuple[Sequence[str], Sequence[int]]]:
    prefix = scope.keys.shards
    # Listed folder by folder where there are many, as a listing is held in memory.
    many = len(needed) > _ONE_LISTING
    for folder in [f"{prefix}{name}/" for name in scope.store.folders(prefix)] if many else [prefix]:
        metas = [meta for meta in scope.store.list(folder) if _SHARD.fullmatch(meta.key, len(prefix))]
        unneeded = ~_among(_beginnings([meta.key for meta in metas]), needed)
        yield _columns(metas[i] for i in np.flatnonzero(unneeded).tolist() if scope.orphaned(metas[i]))
        scope.tick()


def _among(values: NDArray[np.uint64], ascending: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether each value is among the others; unlike `np.isin`, which sorts all of them for every folder."""
    if not len(ascending):
        return np.zeros(len(values), np.bool_)
    return ascending[np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)] == values


def _unnamed(scope: Scope, files: LayoutFiles, header: Header) -> list[ObjectMeta]:
    """Return parts that interrupted attempts left in a committed layout."""
    parts = [meta for name, meta in files.others.items() if _PART_NAME.fullmatch(name) and scope.orphaned(meta)]
    named = {part.name for part in header.parts.values()}
    unnamed = [meta for meta in parts if meta.key.rpartition("/")[2] not in named]
    plan = files.others.get("plan.json")
    if plan is not None and any(_name(meta).startswith("plan-") for meta in unnamed):
        body = refetch(scope.store, lambda: unseal(scope.store.get(plan.key), plan.key))
        unnamed = [meta for meta in unnamed if _name(meta) != PartRef(**body["table"]).name]
    return unnamed


def _lost(scope: Scope, chain: Chain) -> list[ObjectMeta]:
    """Return records of publications that never came about."""
    start, on_chain = len(scope.keys.publications), {chain.key(scope.keys, move) for move in chain.publications}
    metas = [meta for key, meta in chain.records.items() if key not in on_chain and _PUBLICATION.fullmatch(key, start)]
    return [meta for meta in metas if scope.orphaned(meta)]


def _name(meta: ObjectMeta) -> str:
    return meta.key.rpartition("/")[2]


def _is_journal(name: str) -> bool:
    return name.startswith("journal/")


def _columns(metas: Iterable[ObjectMeta]) -> tuple[list[str], list[int]]:
    listed = list(metas)
    return [meta.key for meta in listed], [meta.size for meta in listed]


def _table(code: int, keys: Sequence[str], sizes: Sequence[int]) -> pa.Table:
    category = pa.DictionaryArray.from_arrays(np.full(len(keys), code, np.int8), pa.array(CATEGORIES))
    columns = [pa.array(keys, pa.string()), pa.array(sizes, pa.int64()), category]
    return pa.Table.from_arrays(columns, schema=GARBAGE_SCHEMA)
