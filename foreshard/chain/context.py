"""What all stages share: the configuration, the store, and the snapshot and parent that a generation is pinned to."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.chain.boundaries import window
from foreshard.chain.work import Work
from foreshard.config import ForeshardConfig
from foreshard.keys import DatasetKeys, parse_generation_key
from foreshard.shards.repository import LayoutRef, Repository
from foreshard.source import Snapshot, SourceReader, take_snapshot
from foreshard.splits import assign_splits, hash_keys
from foreshard.storage import ObjectStore


@dataclass(frozen=True)
class Inputs:
    """What a generation is planned from; fixed when its first stage runs, so that running one again changes nothing.

    Attributes:
        generation: `<run>.e<boundary>`.
        epochs: the window of finished epochs whose logs it consumes; empty at boundary 0.
        fingerprint: the snapshot it packs.
        parent: the layout it starts from, None where there is none.
    """

    generation: str
    epochs: range
    fingerprint: str
    parent: LayoutRef | None

    @property
    def run(self) -> str:
        """The training job."""
        return parse_generation_key(self.generation)[0]

    @property
    def bootstrap(self) -> bool:
        """Whether this is a first layout, made before any log exists."""
        return not self.epochs

    def to_json(self) -> dict[str, Any]:
        """Return the inputs as JSON values."""
        parent = self.parent and {"generation": self.parent.generation, "plan_digest": self.parent.plan_digest}
        return {
            "generation": self.generation,
            "epochs": [self.epochs.start, self.epochs.stop],
            "fingerprint": self.fingerprint,
            "parent": parent,
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "Inputs":
        """Rebuild inputs from `to_json`'s output."""
        parent = raw["parent"] and LayoutRef(raw["parent"]["generation"], raw["parent"]["plan_digest"])
        return cls(raw["generation"], range(*raw["epochs"]), raw["fingerprint"], parent)


@dataclass(frozen=True)
class Sketch:
    """Standardised numeric features, shape (n, d), and class codes, shape (n,), of every sample of a snapshot."""

    features: NDArray[np.float32]
    labels: NDArray[np.int32]


class Context:
    """Opens the store on first use and remembers what several stages of one process need.

    Args:
        config: the whole configuration.
        store: the object store, opened from the configuration if left out.
    """

    def __init__(self, config: ForeshardConfig, store: ObjectStore | None = None) -> None:
        self.config = config
        self.keys = DatasetKeys(config.dataset.name)
        self._given_store = store
        self._sketch = lru_cache(maxsize=1)(self._make_sketch)

    @cached_property
    def store(self) -> ObjectStore:
        """The object store that holds layouts, logs and intermediate results."""
        return self._given_store or ObjectStore.open(self.config.store.url, endpoint=self.config.store.endpoint)

    @cached_property
    def repository(self) -> Repository:
        """Snapshots, plans and layouts of the dataset."""
        return Repository(self.store, self.config.dataset.name)

    @cached_property
    def snapshot(self) -> Snapshot:
        """The state of the source now, saved with the split of every sample.

        Raises:
            SourceError: the source is empty, unreadable or lacks the target or key column.
            ConfigError: the split settings changed since this snapshot was first used.
        """
        dataset = self.config.dataset
        required = [dataset.target, *dataset.features, *([dataset.key] if dataset.key else [])]
        snapshot = take_snapshot(
            dataset.source.url, endpoint=dataset.source.endpoint, required=required, previous=self._last_snapshot()
        )
        splits = assign_splits(self._split_keys(snapshot), dataset.splits.fractions(), dataset.seed)
        self.repository.save_snapshot(snapshot, splits)
        return snapshot

    def _last_snapshot(self) -> Snapshot | None:
        """Return the snapshot that is packed now: files that were there already keep their place before new ones."""
        current = self.repository.current()
        return self.repository.load_snapshot(self.repository.header(current.ref).fingerprint) if current else None

    def _split_keys(self, snapshot: Snapshot) -> NDArray[np.int64]:
        key = self.config.dataset.key
        if key is None:
            return np.arange(snapshot.rows, dtype=np.int64)
        parts = [hash_keys(table.column(key).to_pylist()) for _, table in SourceReader(snapshot, [key]).scan()]
        return np.concatenate(parts)

    def work(self, generation: str) -> Work:
        """Return the intermediate results of a generation."""
        return Work(self.store, self.keys, generation)

    def inputs(self, generation: str) -> Inputs:
        """Return what the generation is pinned to, pinning it first where no stage has run yet.

        A first layout packs the source as it is now. Later ones pack the snapshot of the layout that is current: the
        order of samples of a running job is a function of its snapshot.

        Raises:
            ConfigError: the key is malformed or not at a boundary.
        """
        work = self.work(generation)
        raw = work.find_json("inputs")
        if raw is None:
            raw = work.create_json("inputs", self._pin(generation).to_json())
        return Inputs.from_json(raw)

    def _pin(self, generation: str) -> Inputs:
        epochs = window(generation, self.config.reshard.every)
        current = self.repository.current()
        if current is None:
            return Inputs(generation, epochs, self.snapshot.fingerprint, None)
        packed = self.repository.open(current.ref).header.fingerprint
        if epochs or packed == self.snapshot.fingerprint:
            return Inputs(generation, epochs, packed, current.ref)
        return Inputs(generation, epochs, self.snapshot.fingerprint, None)

    def sketch(self, fingerprint: str) -> Sketch:
        """Return features and labels of every sample of a snapshot; kept for the stages of one process."""
        return self._sketch(fingerprint)

    def _make_sketch(self, fingerprint: str) -> Sketch:
        from foreshard.consistency.sketch import feature_sketch

        features, labels = feature_sketch(self.model_rows(fingerprint), self.config.dataset.target)
        return Sketch(features, labels)

    def model_rows(self, fingerprint: str, limit: int | None = None) -> pa.Table:
        """Return the columns that the model sees of `rows`, the target last."""
        columns = self.config.dataset.model_columns(self.repository.load_snapshot(fingerprint).schema.names)
        return self.rows(fingerprint, limit, columns)

    def rows(self, fingerprint: str, limit: int | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of a snapshot; `limit` rows spread evenly over it where it has more."""
        reader = SourceReader(self.repository.load_snapshot(fingerprint), columns)
        total = reader.snapshot.rows
        if limit is not None and total > limit:
            return reader.take(np.arange(limit, dtype=np.int64) * total // limit)
        return pa.concat_tables(table for _, table in reader.scan())
