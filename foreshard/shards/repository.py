"""The repository of one dataset: snapshots, plans, committed layouts and the pointer to the current one."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.errors import ObjectNotFoundError
from foreshard.keys import DatasetKeys, LayoutRef, find_layout, parse_generation_key
from foreshard.layout.plan import Plan
from foreshard.shards import records
from foreshard.shards.assemble import Figures
from foreshard.shards.commit import HEADER, commit_layout, is_committed, read_header
from foreshard.shards.header import Header, PartRef
from foreshard.shards.leases import DEFAULT_TTL, WRITER_TIMEOUT, ReaderLease, WriterLease, lease_reader, lease_writer
from foreshard.shards.manifest import REQUIRED, Manifest
from foreshard.shards.materialize import Execution, Materialized, Progress, materialize
from foreshard.shards.parts import Shelf, load_part
from foreshard.shards.pointer import Current, Published, move_pointer, publications, read_pointer
from foreshard.shards.reading import read_chunks
from foreshard.shards.shard_table import Base
from foreshard.shards.verify import Claims, VerifyReport, verify_layout
from foreshard.source import Snapshot, SourceReader
from foreshard.storage import ObjectStore

if TYPE_CHECKING:
    from foreshard.retention import RetentionConfig
    from foreshard.shards.gc_report import GcReport

__all__ = ["Current", "LayoutRef", "Manifest", "Materialized", "Published", "Repository", "VerifyReport"]


class Repository:
    """Everything foreshard keeps of one dataset in a store.

    Layouts are immutable: objects are created, never replaced, and a layout exists once its `manifest.json` does. Only
    the pointer to the current layout moves, by compare-and-swap.

    Args:
        store: where the objects are.
        dataset: prefix of all their keys.
    """

    def __init__(self, store: ObjectStore, dataset: str) -> None:
        self.store = store
        self.keys = DatasetKeys(dataset)

    # -- records ---------------------------------------------------------------------------------------
    def save_snapshot(self, snapshot: Snapshot, splits: NDArray[np.uint8]) -> None:
        """Record a snapshot and the split of each of its samples; see `foreshard.shards.records`."""
        records.save_snapshot(self.store, self.keys, snapshot, splits)

    def load_snapshot(self, fingerprint: str) -> Snapshot:
        """Return a recorded snapshot; see `foreshard.shards.records`."""
        return records.load_snapshot(self.store, self.keys, fingerprint)

    def load_splits(self, fingerprint: str) -> NDArray[np.uint8]:
        """Return the split code of every sample of a recorded snapshot, shape (n,); see `foreshard.shards.records`."""
        return records.load_splits(self.store, self.keys, fingerprint)

    def save_plan(self, plan: Plan) -> LayoutRef:
        """Record a plan, before anything is made from it; see `foreshard.shards.records`."""
        return records.save_plan(self.store, self.keys, plan)

    def load_plan(self, ref: LayoutRef) -> Plan:
        """Return a recorded plan; see `foreshard.shards.records`."""
        return records.load_plan(self.store, self.keys, ref)

    # -- layouts ---------------------------------------------------------------------------------------
    def materialize(
        self,
        plan: Plan,
        reader: SourceReader,
        *,
        figures: Figures | None = None,
        progress: Progress | None = None,
        execution: Execution | None = None,
    ) -> Materialized:
        """Record a plan and write its shards, to be committed then; see `foreshard.shards.materialize`.

        Shards of the layout that the plan replaces are taken over where they are the same.
        """
        self.save_plan(plan)
        return materialize(
            self.store,
            self.keys,
            plan,
            reader,
            bases=self._bases(plan),
            figures=figures,
            progress=progress,
            execution=execution,
        )

    def make(
        self,
        plan: Plan,
        reader: SourceReader,
        *,
        figures: Figures | None = None,
        progress: Progress | None = None,
        execution: Execution | None = None,
    ) -> Materialized:
        """Materialise and commit a plan, with gc kept out meanwhile; see `materialize`, `commit` and `lease_writer`.

        Raises:
            ConflictError: the layout was committed with other shards, or gc went by while this process stood still.
        """
        with self.lease_writer(plan.generation) as lease:
            made = self.materialize(plan, reader, figures=figures, progress=progress, execution=execution)
            lease.renew()
            self.commit(made.manifest)
        return made

    def _bases(self, plan: Plan) -> list[Base]:
        known = [ref for ref in (plan.ref, plan.parent) if ref is not None and self.committed(ref)]
        return [Base(self.load_plan(ref), self.open(ref)) for ref in known]

    def commit(self, manifest: Manifest) -> LayoutRef:
        """Make a materialised layout exist; see `foreshard.shards.commit.commit_layout`."""
        return commit_layout(self.store, self.keys, manifest)

    def find_layout(self, layout: LayoutRef | str) -> LayoutRef:
        """Return the layout that a text names: `<generation>/<plan digest>`, or a generation that has but one.

        Raises:
            ObjectNotFoundError: the generation has no committed layout.
            ConfigError: it has several, or this is no text.
        """
        return find_layout(layout, self.layouts, self.store.url)

    def committed(self, ref: LayoutRef) -> bool:
        """Whether a layout is complete and may be opened."""
        return is_committed(self.store, self.keys, ref)

    def header(self, ref: LayoutRef) -> Header:
        """Return a layout's header; see `foreshard.shards.commit.read_header`."""
        return read_header(self.store, self.keys, ref)

    def open(self, ref: LayoutRef | str | None = None, *, shelf: Shelf | None = None) -> Manifest:
        """Open a committed layout, verifying the digests of its parts.

        Args:
            ref: which one, as in `find_layout`; the current one if left out.
            shelf: keeps parts on this machine's disk; None to read them from the store.

        Raises:
            ObjectNotFoundError: the layout is not committed, or nothing was published yet.
            CorruptDataError: a part is missing or damaged.
        """
        if ref is None:
            current = self.current()
            if current is None:
                raise ObjectNotFoundError(
                    f"dataset {self.keys.dataset!r} has no current layout in {self.store.url}; bootstrap first: "
                    "materialise and publish the generation of epoch 0, '<run>.e000000'"
                )
            ref = current.ref
        ref = self.find_layout(ref)
        header = self.header(ref)
        kinds = [*REQUIRED, *({"dictionaries"} & set(header.parts))]
        return Manifest(header, {kind: self._part(ref, header.parts[kind], shelf) for kind in kinds})

    def consistency(self, ref: LayoutRef) -> pa.RecordBatch:
        """Return a layout's consistency metadata (`CONSISTENCY_SCHEMA`), one row per chunk.

        Raises:
            ObjectNotFoundError: the layout is not committed.
            CorruptDataError: the metadata are missing or damaged.
        """
        raw = self._part(ref, self.header(ref).parts["consistency"])
        return pa.ipc.open_file(pa.BufferReader(raw)).get_batch(0)

    def layouts(self, generation: str) -> list[LayoutRef]:
        """Return the committed layouts of a generation, by plan digest."""
        return [ref for ref in self._committed_below(generation) if ref.generation == generation]

    def generations(self) -> list[str]:
        """Return the generations that have a committed layout, by run and boundary epoch."""
        return sorted({ref.generation for ref in self._committed_below()}, key=parse_generation_key)

    def _committed_below(self, generation: str | None = None) -> list[LayoutRef]:
        # Any key of the layout, cut before the part that varies, is the prefix.
        sample = self.keys.layout(generation or "x.e000000", "0" * 16, HEADER).split("/")
        prefix = "/".join(sample[:3] if generation else sample[:2]) + "/"
        found = [meta.key.split("/") for meta in self.store.list(prefix)]
        return [LayoutRef(parts[2], parts[3]) for parts in found if parts[-1] == HEADER]

    # -- the current layout ----------------------------------------------------------------------------
    def current(self) -> Current | None:
        """Return what the pointer says, or None before the first publish."""
        found = read_pointer(self.store, self.keys)
        return found[0] if found else None

    def publications(self) -> Iterator[Current]:
        """Yield what the pointer ever said, newest first; see `foreshard.shards.pointer.publications`."""
        return publications(self.store, self.keys)

    def publish(self, ref: LayoutRef | str) -> Published:
        """Make a committed layout current; see `foreshard.shards.pointer.move_pointer`.

        Raises:
            ObjectNotFoundError: the layout is not committed.
            ConflictError: others kept replacing the pointer.
        """
        ref = self.find_layout(ref)
        with self.lease_writer(ref.generation):
            self.header(ref)
            return move_pointer(self.store, self.keys, ref)

    # -- reading ---------------------------------------------------------------------------------------
    def read_chunks(self, manifest: Manifest, chunk_ids: Sequence[int] | NDArray[np.integer]) -> list[pa.RecordBatch]:
        """Return chunks in the given order, verified; see `foreshard.shards.reading.read_chunks`."""
        return read_chunks(self.store, manifest, chunk_ids)

    def verify(self, ref: LayoutRef, progress: Progress | None = None) -> VerifyReport:
        """Read a whole layout and check every claim it makes.

        Raises:
            ObjectNotFoundError: the layout, its plan or its snapshot is not recorded.
            CorruptDataError: header, manifest or metadata are damaged, so that nothing can be compared with them.
        """
        manifest = self.open(ref)
        splits = self.load_splits(manifest.header.fingerprint)
        claims = Claims(self.load_plan(ref), self.consistency(ref), splits)
        return verify_layout(self.store, manifest, claims, progress=progress)

    # -- inside ----------------------------------------------------------------------------------------

    def _part(self, ref: LayoutRef, part: PartRef, shelf: Shelf | None = None) -> pa.Buffer:
        return load_part(self.store, self.keys, ref, part, shelf)

    # -- leases and garbage ----------------------------------------------------------------------------
    def lease_reader(
        self, ref: LayoutRef | None = None, *, ttl: float = DEFAULT_TTL, run: str | None = None
    ) -> ReaderLease:
        """Keep gc from a layout (the current one by default); see `foreshard.shards.leases.lease_reader`."""
        return lease_reader(self.store, self.keys, self.open, ref=ref, ttl=ttl, run=run)

    def lease_writer(
        self, generation: str, *, ttl: float = DEFAULT_TTL, timeout: float = WRITER_TIMEOUT
    ) -> WriterLease:
        """Keep gc out while a generation is made and published; see `foreshard.shards.leases.lease_writer`."""
        return lease_writer(self.store, self.keys, generation, ttl=ttl, timeout=timeout)

    # A training job needs neither these two nor what they import, which takes some 8 MiB.
    def plan_gc(self, policy: "RetentionConfig | None" = None) -> "GcReport":
        """Return what `run_gc` would delete, and change nothing; see `foreshard.shards.gc.plan_gc`."""
        from foreshard.retention import RetentionConfig
        from foreshard.shards.gc import plan_gc

        return plan_gc(self.store, self.keys, policy or RetentionConfig())

    def run_gc(self, policy: "RetentionConfig | None" = None, *, progress: Progress | None = None) -> "GcReport":
        """Delete what nothing holds; see `foreshard.shards.gc.run_gc`."""
        from foreshard.retention import RetentionConfig
        from foreshard.shards.gc import run_gc

        return run_gc(self.store, self.keys, policy or RetentionConfig(), progress=progress)
