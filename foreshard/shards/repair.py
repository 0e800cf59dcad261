"""Put back what a repository has lost of a layout, from the same layout made again."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from foreshard.errors import CorruptDataError, ObjectNotFoundError
from foreshard.shards.header import PartRef, ShardRef
from foreshard.shards.materialize import Progress
from foreshard.shards.rebuild import Rebuilt, load_or_none, recorded_digests
from foreshard.shards.refetch import refetch
from foreshard.shards.repository import Repository
from foreshard.storage import ObjectStore

_READS: Final = 4


@dataclass(frozen=True)
class Repair:
    """What was wrong with the repository's objects, and what became of them.

    Attributes:
        restored: keys of those that were put back.
        left: those that were not, each with the reason.
    """

    restored: tuple[str, ...]
    left: tuple[str, ...]


def damaged_shards(
    repository: Repository, rebuilt: Rebuilt, *, read: bool, progress: Progress | None = None
) -> dict[int, str]:
    """Return what is wrong with the repository's objects of the rebuilt shards, by number.

    Args:
        repository: has the layout.
        rebuilt: the layout.
        read: whether to read every object and compare its SHA-256; else only missing ones and other sizes are found.
        progress: called with (looked at, all shards).
    """
    sizes = {meta.key: meta.size for meta in repository.store.list(repository.keys.shards)}
    shards = rebuilt.manifest.shards

    def look(shard: ShardRef) -> str | None:
        size = sizes.get(shard.key)
        if size is None:
            return "is missing"
        if size != shard.size:
            return f"has {size} bytes instead of {shard.size}"
        return "does not match its SHA-256" if read and not _intact(repository.store, shard) else None

    found: dict[int, str] = {}
    pool = ThreadPoolExecutor(_READS, "foreshard-repair")
    try:
        for number, problem in enumerate(pool.map(look, shards)):
            if problem is not None:
                found[number] = f"shard {number} ({shards[number].key!r}) {problem}"
            if progress:
                progress(number + 1, len(shards))
    finally:  # whoever interrupts it does not want to wait for what is not begun
        pool.shutdown(cancel_futures=True)
    return found


def repair(repository: Repository, rebuilt: Rebuilt, *, progress: Progress | None = None) -> Repair:
    """Put back what is missing or damaged in the repository, where what was made now has the recorded digest.

    Gc is kept out meanwhile. May be interrupted and run again.

    Args:
        repository: has the layout.
        rebuilt: the layout as it was made now.
        progress: called with (objects looked at, all shards).

    Raises:
        ObjectNotFoundError: the layout was removed meanwhile.
        StorageError: the store failed.
    """
    restored: list[str] = []
    left: list[str] = []
    with repository.lease_writer(rebuilt.ref.generation) as lease:
        header = repository.header(rebuilt.ref)
        for kind, part in header.parts.items():
            _repair_part(repository, rebuilt, kind, part, (restored, left))
        recorded = set(recorded_digests(repository, header))
        for number, problem in damaged_shards(repository, rebuilt, read=True, progress=progress).items():
            shard = rebuilt.manifest.shards[number]
            raw = rebuilt.store.get(shard.key)
            if shard.sha256 in recorded and hashlib.sha256(raw).hexdigest() == shard.sha256:
                lease.renew()
                repository.store.put(shard.key, raw)
                restored.append(shard.key)
            else:
                left.append(f"{problem}, and what was made now is not what was recorded")
    return Repair(tuple(restored), tuple(left))


def _repair_part(
    repository: Repository, rebuilt: Rebuilt, kind: str, part: PartRef, told: tuple[list[str], list[str]]
) -> None:
    if load_or_none(repository, rebuilt.ref, part) is not None:
        return
    restored, left = told
    key = repository.keys.layout(rebuilt.ref.generation, rebuilt.ref.plan_digest, part.name)
    made = rebuilt.manifest.header.parts.get(kind)
    if made is not None and made.sha256 == part.sha256:
        repository.store.put(key, memoryview(rebuilt.manifest.parts[kind]).cast("B"))
        restored.append(key)
        return
    why = "what was made now is not what was recorded"
    if kind == "manifest":
        why = "the access counts and scores in it are recorded nowhere else: restore it from a backup"
    left.append(f"part {key!r} is missing or damaged, and {why}")


def _intact(store: ObjectStore, shard: ShardRef) -> bool:
    def read() -> None:
        if hashlib.sha256(store.get(shard.key)).hexdigest() != shard.sha256:
            raise CorruptDataError(shard.key)

    try:
        refetch(store, read)
    except (CorruptDataError, ObjectNotFoundError):
        return False
    return True
