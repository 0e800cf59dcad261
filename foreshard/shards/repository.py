"""The repository of one dataset: snapshots, plans, committed layouts and the pointer to the current one."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.errors import ConfigError, ConflictError, CorruptDataError, ObjectExistsError, ObjectNotFoundError
from foreshard.keys import DatasetKeys, parse_generation_key
from foreshard.layout.plan import Plan
from foreshard.shards import records
from foreshard.shards.manifest import Header, LayoutRef, Manifest, PartRef
from foreshard.shards.materialize import Materialized, Progress, materialize
from foreshard.shards.pointer import Current, Published, move_pointer, read_pointer
from foreshard.shards.reading import read_chunks
from foreshard.shards.verify import VerifyReport, verify_layout
from foreshard.source import Snapshot, SourceReader
from foreshard.storage import ObjectStore

__all__ = ["Current", "LayoutRef", "Manifest", "Materialized", "Published", "Repository", "VerifyReport"]

_HEADER = "manifest.json"
_COMMIT_ORDER = ("index", "manifest", "consistency")
_BINDING = ("fingerprint", "strategy", "root_seed", "algorithm_version", "rows", "nodes", "schema_hex", "shards")


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
        access_counts: NDArray[np.float64] | None = None,
        scores: NDArray[np.float32] | None = None,
        progress: Progress | None = None,
    ) -> Materialized:
        """Record a plan and write its shards, to be committed then; see `foreshard.shards.materialize`."""
        self.save_plan(plan)
        return materialize(
            self.store, self.keys, plan, reader, access_counts=access_counts, scores=scores, progress=progress
        )

    def commit(self, manifest: Manifest) -> LayoutRef:
        """Make a materialised layout exist: write the manifest's parts, then `manifest.json`.

        Committing again, here or by a competing writer, finds the layout in place. What does not decide the shards
        (access counts, scores, library versions) may differ then; the first commit stands.

        Raises:
            ConflictError: the layout was committed with other shards.
            ConfigError: the manifest was opened from the repository, not materialised, and is not committed.
        """
        ref, header = manifest.ref, manifest.header
        if self.committed(ref):
            return self._same(header)
        if manifest.consistency is None:
            raise ConfigError(f"layout {ref} has no consistency metadata here; commit what `materialize` returned")
        parts = {"index": manifest.index, "manifest": manifest.table, "consistency": manifest.consistency}
        for kind in _COMMIT_ORDER:
            self.store.create(self._key(ref, header.parts[kind].name), memoryview(parts[kind]).cast("B"))
        try:
            self.store.create(self._key(ref, _HEADER), header.to_json())
        except ObjectExistsError:
            return self._same(header)
        return ref

    def _same(self, header: Header) -> LayoutRef:
        ref = LayoutRef(header.generation, header.plan_digest)
        standing = self.header(ref)
        for name in _BINDING:
            if getattr(standing, name) != getattr(header, name):
                raise ConflictError(
                    f"layout {ref} is committed with another {name} than this materialisation gave; the plan was not "
                    "reproduced: compare the header's `versions`, and materialise under a new generation"
                )
        return ref

    def committed(self, ref: LayoutRef) -> bool:
        """Whether a layout is complete and may be opened."""
        return self.store.exists(self._key(ref, _HEADER))

    def header(self, ref: LayoutRef) -> Header:
        """Return a layout's header.

        Raises:
            ObjectNotFoundError: the layout is not committed.
            CorruptDataError: the header is damaged or is another layout's.
        """
        key = self._key(ref, _HEADER)
        try:
            raw = self.store.get(key)
        except ObjectNotFoundError as error:
            raise ObjectNotFoundError(
                f"layout {ref} is not committed in {self.store.url} ({key!r} is missing); materialise and commit it"
            ) from error
        header = Header.from_json(raw, key)
        if (header.dataset, header.generation, header.plan_digest) != (
            self.keys.dataset,
            ref.generation,
            ref.plan_digest,
        ):
            raise CorruptDataError(f"{key!r} is the header of {header.generation}/{header.plan_digest}; restore it")
        return header

    def open(self, ref: LayoutRef | None = None) -> Manifest:
        """Open a committed layout, verifying the digests of its parts.

        Args:
            ref: which one; the current one if left out.

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
        header = self.header(ref)
        return Manifest(header, self._part(ref, header.parts["manifest"]), self._part(ref, header.parts["index"]))

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
        sample = self.keys.layout(generation or "x.e000000", "0" * 16, _HEADER).split("/")
        prefix = "/".join(sample[:3] if generation else sample[:2]) + "/"
        found = [meta.key.split("/") for meta in self.store.list(prefix)]
        return [LayoutRef(parts[2], parts[3]) for parts in found if parts[-1] == _HEADER]

    # -- the current layout ----------------------------------------------------------------------------
    def current(self) -> Current | None:
        """Return what the pointer says, or None before the first publish."""
        found = read_pointer(self.store, self.keys)
        return found[0] if found else None

    def publish(self, ref: LayoutRef) -> Published:
        """Make a committed layout current; see `foreshard.shards.pointer.move_pointer`.

        Raises:
            ObjectNotFoundError: the layout is not committed.
            ConflictError: others kept replacing the pointer.
        """
        self.header(ref)
        return move_pointer(self.store, self.keys, ref)

    # -- reading ---------------------------------------------------------------------------------------
    def read_chunks(self, manifest: Manifest, chunk_ids: Sequence[int] | NDArray[np.integer]) -> list[pa.RecordBatch]:
        """Return chunks in the given order, verified; see `foreshard.shards.reading.read_chunks`."""
        return read_chunks(self.store, manifest, chunk_ids)

    def verify(self, ref: LayoutRef) -> VerifyReport:
        """Read a whole layout and check every claim it makes.

        Raises:
            ObjectNotFoundError: the layout, its plan or its snapshot is not recorded.
            CorruptDataError: header, manifest or metadata are damaged, so that nothing can be compared with them.
        """
        manifest = self.open(ref)
        splits = self.load_splits(manifest.header.fingerprint)
        planned = self.load_plan(ref).chunk_of()
        return verify_layout(self.store, manifest, self.consistency(ref), splits, planned)

    # -- inside ----------------------------------------------------------------------------------------
    def _key(self, ref: LayoutRef, name: str) -> str:
        return self.keys.layout(ref.generation, ref.plan_digest, name)

    def _part(self, ref: LayoutRef, part: PartRef) -> pa.Buffer:
        return records.load_part(self.store, self.keys, ref, part)
