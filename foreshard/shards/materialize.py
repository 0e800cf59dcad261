"""Execute a plan: take over what is in place, make the other shards from the source, and put them, create-only."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from foreshard.errors import SourceError
from foreshard.keys import DatasetKeys
from foreshard.layout.migration import write_order
from foreshard.layout.plan import Plan
from foreshard.shards.arrange import ChunkOrder, check_plan_covers, order_chunks
from foreshard.shards.assemble import Figures, assemble
from foreshard.shards.build import GroupTask, ShardTask, build_group, make_group
from foreshard.shards.dictionaries import Dictionaries
from foreshard.shards.gather import PhysicalRows, gather
from foreshard.shards.journal import read_journal, write_journal
from foreshard.shards.manifest import Manifest
from foreshard.shards.putting import Putter
from foreshard.shards.schema import dictionary_leaves
from foreshard.shards.shard_table import Base, PutShard, ShardTable, shards_of_base
from foreshard.source import SourceReader
from foreshard.storage import ObjectStore

GROUP_BYTES: Final = 32 << 20
"""Bytes of source rows that shards are made from at a time (at least one shard's)."""

_MAKING: Final = 2 * GROUP_BYTES
"""Bytes of rows that shards are being made from at a time, in threads; a larger group comes alone."""

_ON_THEIR_WAY: Final = 4

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Execution:
    """How a plan is executed; none of it changes a byte.

    Attributes:
        workers: groups of shards made at a time; large ones come alone, as putting them takes the other cores.
        executor: where they are made; threads of this process if None. One that runs in other processes needs a store
            that can be opened there, and sees spool files only on this machine.
        group_bytes: see `GROUP_BYTES`. Memory peaks at about three times this for each worker.
        spool: folder for rows that have to be rearranged; the system's temporary folder if None.
    """

    workers: int = 2
    executor: Executor | None = None
    group_bytes: int = GROUP_BYTES
    spool: Path | None = None


@dataclass(frozen=True)
class Materialized:
    """Outcome of a materialisation: the manifest to commit, and what was written or found there already.

    Attributes:
        manifest: the layout, not yet committed.
        written_bytes: bytes of shards sent.
        reused_bytes: bytes of shards that were in place.
        written_shards: number of shards sent.
        reused_shards: number of shards that were in place.
        seconds: wall time.
    """

    manifest: Manifest
    written_bytes: int
    reused_bytes: int
    written_shards: int
    reused_shards: int
    seconds: float


def materialize(
    store: ObjectStore,
    keys: DatasetKeys,
    plan: Plan,
    reader: SourceReader,
    *,
    bases: Sequence[Base] = (),
    figures: Figures | None = None,
    progress: Progress | None = None,
    execution: Execution | None = None,
) -> Materialized:
    """Write a plan's shards and return its manifest, not yet committed.

    A shard's bytes follow from (snapshot, plan, algorithm version) alone; its key is their digest. Shards that a base
    holds are neither read nor made again, nor those that an interrupted attempt put.

    Args:
        store: where to put the shards.
        keys: names of the dataset's objects.
        plan: what to write.
        reader: the plan's snapshot, all columns.
        bases: layouts whose shards may serve the plan, such as the one that it replaces.
        figures: access counts and scores for the manifest; zeros if left out.
        progress: called from this thread with (finished shards, all shards).
        execution: how to go about it.

    Raises:
        PlanError: the plan is for another snapshot, or is no exact cover of it.
        SourceError: the reader leaves columns out, or the source has changed.
        StorageError: the store failed.
    """
    began = time.perf_counter()
    execution = execution or Execution()
    _check_columns(reader)
    check_plan_covers(plan, reader.snapshot)
    chunks = order_chunks(plan)
    table = ShardTable(chunks.contents)
    for shard in _in_place(store, keys, plan, chunks, bases):
        table.add(shard)
    total = chunks.contents.shards
    if progress and table.shards:
        progress(len(table.shards), total)
    dictionaries = _dictionaries(reader, bases)
    rows = PhysicalRows(reader, dictionaries)
    missing = table.missing(write_order(chunks.contents))
    groups = _groups_of(chunks, missing, rows.row_bytes, execution) if missing else []
    for built in _build(store, keys, groups, rows, execution):
        write_journal(store, keys, plan.ref, built)
        for shard in built:
            table.add(shard)
            if progress:
                progress(len(table.shards), total)
    manifest = assemble(keys.dataset, reader.snapshot.schema, chunks, table, dictionaries, figures or Figures())
    written = [shard.ref.size for shard in table.shards.values() if shard.written]
    reused = [shard.ref.size for shard in table.shards.values() if not shard.written]
    seconds = time.perf_counter() - began
    return Materialized(manifest, sum(written), sum(reused), len(written), len(reused), seconds)


def _check_columns(reader: SourceReader) -> None:
    missing = [name for name in reader.snapshot.schema.names if name not in reader.columns]
    if missing:
        raise SourceError(f"the reader leaves out the columns {', '.join(missing)}; shards hold all columns")


def _in_place(
    store: ObjectStore, keys: DatasetKeys, plan: Plan, chunks: ChunkOrder, bases: Sequence[Base]
) -> list[PutShard]:
    """Return the shards that the bases or an earlier attempt have put, if their objects are there in full."""
    known = [shard for base in bases for shard in shards_of_base(chunks.contents, base)]
    known += read_journal(store, keys, plan.ref)
    if not known:
        return []
    sizes = {meta.key: meta.size for meta in store.list(keys.shards)}
    return [shard for shard in known if sizes.get(shard.ref.key) == shard.ref.size]


# -- the shards to make --------------------------------------------------------------------------------


def _dictionaries(reader: SourceReader, bases: Sequence[Base]) -> Dictionaries:
    """Return the snapshot's dictionaries: those of a layout of it, or else gathered from the source."""
    for base in bases:
        if base.manifest.header.fingerprint == reader.snapshot.fingerprint:
            return base.manifest.dictionaries
    schema = reader.snapshot.schema
    names = [field.name for field in schema if any(dictionary_leaves(field.type, ""))]
    tables = (table for _, table in reader.scan(columns=names)) if names else ()
    return Dictionaries.from_tables(schema, tables)


def _build(
    store: ObjectStore,
    keys: DatasetKeys,
    groups: list[list[ShardTask]],
    rows: PhysicalRows,
    execution: Execution,
) -> Iterator[list[PutShard]]:
    """Yield shards as they are put, group after group."""
    if not groups:
        return
    ids = [np.unique(np.concatenate([task.stored for task in group])) for group in groups]
    with gather(rows, ids, execution.spool) as gathered:
        work = (GroupTask(store, keys, rows, tuple(group)) for rows, group in zip(gathered, groups, strict=True))
        if execution.executor is not None:
            yield from _elsewhere(execution.executor, work, execution.workers)
        else:
            largest = max(len(each) for each in ids) * rows.row_bytes
            fit = max(1, int(_MAKING // largest))
            yield from _here(Putter(store, keys), work, min(execution.workers, fit))


def _here(putter: Putter, work: Iterator[GroupTask], workers: int) -> Iterator[list[PutShard]]:
    """Yield results in order; groups are made in `workers` threads, and some more are on their way to the store."""
    running: deque[Future[list[Future[PutShard]]]] = deque()

    def finished() -> list[PutShard]:
        return [future.result() for future in running.popleft().result()]

    with putter, ThreadPoolExecutor(workers, "foreshard-make") as pool:
        try:
            for task in work:
                running.append(pool.submit(make_group, task, putter))
                if len(running) > workers + _ON_THEIR_WAY:
                    yield finished()
            while running:
                yield finished()
        finally:
            for future in running:
                future.cancel()


def _elsewhere(pool: Executor, work: Iterator[GroupTask], workers: int) -> Iterator[list[PutShard]]:
    """Yield results in order, with one group more under way than there are workers."""
    running: deque[Future[list[PutShard]]] = deque()
    try:
        for task in work:
            running.append(pool.submit(build_group, task))
            if len(running) > workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        for future in running:
            future.cancel()


def _shard_task(chunks: ChunkOrder, number: int) -> ShardTask:
    stored, offsets = chunks.rows_of(number)
    contents = chunks.contents
    return ShardTask(number, stored, offsets, contents.origins[int(contents.origin[number])].compression)


def _groups_of(chunks: ChunkOrder, shards: list[int], row_bytes: float, execution: Execution) -> list[list[ShardTask]]:
    """Divide shards to make into runs whose rows fit `group_bytes` together; a larger shard comes alone."""
    groups: list[list[ShardTask]] = []
    held = 0.0
    for task in (_shard_task(chunks, number) for number in shards):
        size = len(task.stored) * row_bytes
        if not groups or held + size > execution.group_bytes:
            groups.append([])
            held = 0.0
        groups[-1].append(task)
        held += size
    return groups
