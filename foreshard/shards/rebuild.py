"""Make a committed layout again from its recorded plan and the source alone, and compare it with the record."""

import shutil
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from foreshard.errors import ConfigError, CorruptDataError, ObjectNotFoundError
from foreshard.keys import LayoutRef
from foreshard.shards.columns import binary_rows
from foreshard.shards.header import Header, PartRef
from foreshard.shards.journal import clear_journal
from foreshard.shards.manifest import Manifest
from foreshard.shards.materialize import Execution, Progress, materialize
from foreshard.shards.parts import load_part
from foreshard.shards.repository import Repository
from foreshard.source import SourceReader
from foreshard.storage import ObjectStore

_FIGURES: Final = ("access_count", "prediction_score")
"""Columns of the chunk table that do not follow from the plan."""

_SHOWN: Final = 10
_HEADROOM: Final = 1.05


@dataclass(frozen=True)
class Comparison:
    """How one kind of thing compares with what was recorded.

    Attributes:
        what: its name.
        same: how many are as recorded.
        total: how many there are.
        different: the first that are not, in words.
    """

    what: str
    same: int
    total: int
    different: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Rebuilt:
    """A layout that was made again.

    Attributes:
        ref: which one.
        manifest: as it was made now.
        store: where the shards are now.
        comparisons: what is as recorded and what is not.
        recorded: libraries and algorithm that wrote the layout, by name.
        running: those that made it now.
        bytes: of all shards.
        seconds: wall time.
    """

    ref: LayoutRef
    manifest: Manifest
    store: ObjectStore
    comparisons: tuple[Comparison, ...]
    recorded: Mapping[str, str]
    running: Mapping[str, str]
    bytes: int
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether everything is as recorded."""
        return all(each.same == each.total for each in self.comparisons)


@contextmanager
def rebuild_space(repository: Repository, ref: LayoutRef, folder: Path | None = None) -> Generator[ObjectStore]:
    """Yield an empty store in a temporary folder with room for a layout; removed when the block ends.

    Args:
        repository: has the layout.
        ref: which one.
        folder: where to make it; in the system's temporary folder if None.

    Raises:
        ConfigError: there is no such folder, or less free space than the layout takes.
    """
    place = Path(tempfile.gettempdir()) if folder is None else folder
    if not place.is_dir():
        raise ConfigError(f"there is no folder {str(place)!r} to rebuild in; make it, or name another one")
    needed, free = int(_stored_bytes(repository, ref) * _HEADROOM), shutil.disk_usage(place).free
    if needed > free:
        raise ConfigError(
            f"layout {ref} takes {needed} bytes and {str(place)!r} has {free} free; name a larger folder (--spool) or "
            "a store to rebuild into (--into)"
        )
    with tempfile.TemporaryDirectory(prefix="foreshard-rebuild-", dir=place) as made:
        yield ObjectStore.open(Path(made).resolve().as_uri())


def rebuild(
    repository: Repository,
    ref: LayoutRef,
    target: ObjectStore,
    *,
    execution: Execution | None = None,
    progress: Progress | None = None,
) -> Rebuilt:
    """Make every shard of a layout from the source into another store, and compare digests with those recorded.

    Nothing that was made before is used, in the repository or in the target.

    Args:
        repository: has the layout; nothing is written there.
        ref: which one.
        target: where the shards are put.
        execution: how to go about it.
        progress: called from this thread with (finished shards, all shards).

    Raises:
        ConfigError: the target is the repository's own store.
        ObjectNotFoundError: the layout, its plan or its snapshot is not recorded.
        CorruptDataError: header, plan or snapshot are damaged.
        SourceError: the source has changed.
    """
    if (target.url.rstrip("/"), target.endpoint) == (repository.store.url.rstrip("/"), repository.store.endpoint):
        raise ConfigError(f"{target.url} is the store of the layout itself; rebuild into another one")
    began = time.perf_counter()
    header = repository.header(ref)
    plan = repository.load_plan(ref)
    reader = SourceReader(repository.load_snapshot(plan.fingerprint))
    clear_journal(target, repository.keys, ref)  # left by a rebuild that was interrupted
    made = materialize(target, repository.keys, plan, reader, progress=progress, execution=execution)
    clear_journal(target, repository.keys, ref)
    return Rebuilt(
        ref=ref,
        manifest=made.manifest,
        store=target,
        comparisons=tuple(_compare(repository, header, made.manifest)),
        recorded=_versions(header),
        running=_versions(made.manifest.header),
        bytes=int(made.manifest.shard_sizes.sum()),
        seconds=time.perf_counter() - began,
    )


# -- comparing -----------------------------------------------------------------------------------------


def _compare(repository: Repository, header: Header, made: Manifest) -> list[Comparison]:
    found = [_compare_shards(repository, header, made)]
    for kind, what in (("index", "sample index"), ("dictionaries", "dictionaries")):
        if kind in header.parts or kind in made.header.parts:
            ours, theirs = (each.parts.get(kind) for each in (made.header, header))
            same = ours is not None and theirs is not None and ours.sha256 == theirs.sha256
            found.append(Comparison(what, int(same), 1, () if same else (f"the SHA-256 of part {kind!r}",)))
    for kind, what in (("manifest", "columns of the chunk table"), ("consistency", "columns of consistency metadata")):
        found.append(_compare_columns(repository, header, made, kind, what))
    return found


def _compare_shards(repository: Repository, header: Header, made: Manifest) -> Comparison:
    recorded, keys = recorded_digests(repository, header), made.shards
    if not recorded:
        # The list of them is damaged; if it is the one that was made now, so are the shards.
        same = header.parts["shards"].sha256 == made.header.parts["shards"].sha256
        told = () if same else ("the recorded list of shards is damaged, so that no digest can be compared",)
        return Comparison("shards", len(keys) if same else 0, len(keys), told)
    wrong = [
        f"shard {number}: recorded {old[:16]}, made {new.sha256[:16]}"
        for number, (old, new) in enumerate(zip(recorded, keys, strict=False))
        if old != new.sha256
    ]
    total = max(len(recorded), len(keys))
    same = min(len(recorded), len(keys)) - len(wrong)
    return Comparison("shards", same, total, tuple(wrong[:_SHOWN]))


def _compare_columns(repository: Repository, header: Header, made: Manifest, kind: str, what: str) -> Comparison:
    """Compare the columns that follow from the plan; the texts beside them name versions, which may differ."""
    new = _batch(made.parts[kind])
    names = [name for name in new.schema.names if name not in _FIGURES]
    raw = load_or_none(repository, header.ref, header.parts[kind])
    if raw is None:
        return Comparison(what, 0, len(names), (f"part {kind!r} is missing or damaged in the repository",))
    old = _batch(raw)
    wrong = [name for name in names if name not in old.schema.names or not old.column(name).equals(new.column(name))]
    return Comparison(what, len(names) - len(wrong), len(names), tuple(f"column {name!r}" for name in wrong))


def recorded_digests(repository: Repository, header: Header) -> list[str]:
    """Return the recorded SHA-256 of every shard, none where their list is damaged and cannot be believed."""
    raw = load_or_none(repository, header.ref, header.parts["shards"])
    if raw is None:
        return []
    return [bytes(digest).hex() for digest in binary_rows(_batch(raw).column("sha256"))]


def load_or_none(repository: Repository, ref: LayoutRef, part: PartRef) -> pa.Buffer | None:
    """Return a part of a layout, verified; None where it is missing or damaged."""
    try:
        return load_part(repository.store, repository.keys, ref, part)
    except (CorruptDataError, ObjectNotFoundError):
        return None


def _batch(raw: pa.Buffer) -> pa.RecordBatch:
    return pa.ipc.open_file(pa.BufferReader(raw)).get_batch(0)


def _stored_bytes(repository: Repository, ref: LayoutRef) -> int:
    raw = load_or_none(repository, ref, repository.header(ref).parts["shards"])
    return int(_batch(raw).column("size").to_numpy().astype(np.int64).sum()) if raw is not None else 0


def _versions(header: Header) -> dict[str, str]:
    return {**header.versions, "algorithm": str(header.algorithm_version)}
