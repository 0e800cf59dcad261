"""Builds small real datasets and layouts for the loader's tests: real Parquet, real plans, real shards."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from foreshard.layout.plan import Plan, chunk_content_ids
from foreshard.prefetch.manifest import PIN_ALL, Advice, build_prefetch, write_prefetch
from foreshard.shards.manifest import Manifest
from foreshard.shards.repository import Repository
from foreshard.source import Snapshot, SourceReader, take_snapshot
from foreshard.splits import assign_splits
from foreshard.storage import ObjectStore

if TYPE_CHECKING:
    from foreshard.keys import LayoutRef

NODES = ("node0", "node1", "node2")


@dataclass
class Dataset:
    """A dataset with its snapshot saved in a repository."""

    repository: Repository
    snapshot: Snapshot
    splits: np.ndarray

    @property
    def train_ids(self):
        """Sample ids of the train split."""
        return np.flatnonzero(self.splits == 0).astype(np.int64)


def make_dataset(folder: Path, rows: int, store: ObjectStore | None = None) -> Dataset:
    """Write a source of `rows` rows whose column `value` is 10 times the sample id."""
    source = folder / "source"
    source.mkdir(parents=True)
    ids = np.arange(rows)
    table = pa.table({"value": ids * 10, "text": [f"row {i}" for i in ids], "late": ids % 3 == 0})
    half = rows // 2
    pq.write_table(table.slice(0, half), source / "a.parquet", row_group_size=max(half // 3, 1))
    pq.write_table(table.slice(half), source / "b.parquet")
    snapshot = take_snapshot(source.as_uri())
    splits = assign_splits(ids.astype(np.int64), {"train": 0.8, "validation": 0.1, "test": 0.1}, 7)
    repository = Repository(store or ObjectStore.open((folder / "store").as_uri()), "demo")
    repository.save_snapshot(snapshot, splits)
    return Dataset(repository, snapshot, splits)


def make_plan(dataset: Dataset, epoch: int, *, seed: int, chunk_rows: int) -> Plan:
    """Plan chunks of random members, sizes up to `chunk_rows`, dealt to the nodes at random."""
    rng = np.random.default_rng(seed)
    members, splits, order = [], [], []
    for split in range(3):
        ids = rng.permutation(np.flatnonzero(dataset.splits == split))
        while len(ids):
            size = int(rng.integers(1, chunk_rows + 1))
            members.append(np.sort(ids[:size]))
            splits.append(split)
            ids = ids[size:]
    nodes = rng.integers(0, len(NODES), len(members)).astype(np.int32)
    by_shard = np.lexsort((np.arange(len(members)), splits, nodes))
    members, splits, nodes = [members[i] for i in by_shard], np.array(splits)[by_shard], nodes[by_shard]
    order = np.concatenate(members).astype(np.int64)
    rows = np.array([len(m) for m in members], np.int32)
    shard = np.unique(np.stack([nodes, splits]), axis=1, return_inverse=True)[1].reshape(-1).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(rows)])
    chunks = pa.table(
        {
            "chunk": np.arange(len(members), dtype=np.int32),
            "split": splits.astype(np.uint8),
            "group": np.zeros(len(members), np.int32),
            "node": nodes,
            "shard": shard,
            "rows": rows,
            "heat": rows.astype(np.float64),
            "content_id": pa.array(chunk_content_ids(order, offsets), pa.binary(16)),
        }
    )
    return Plan(
        generation=f"demo.e{epoch:06d}",
        fingerprint=dataset.snapshot.fingerprint,
        strategy="hash",
        root_seed=seed,
        nodes=NODES,
        parent=None,
        decision="bootstrap",
        reason="a test's random layout",
        predicted={},
        chunks=chunks,
        sample_ids=order,
    )


def publish(dataset: Dataset, epoch: int, *, seed: int, chunk_rows: int = 40) -> Manifest:
    """Plan, materialise, commit and publish a layout."""
    plan = make_plan(dataset, epoch, seed=seed, chunk_rows=chunk_rows)
    dataset.repository.save_plan(plan)
    done = dataset.repository.materialize(plan, SourceReader(dataset.snapshot))
    ref = dataset.repository.commit(done.manifest)
    assert dataset.repository.publish(ref).changed
    return dataset.repository.open(ref)


def advise(dataset: Dataset, manifest: Manifest, expected: np.ndarray, budget: int, advice: Advice = PIN_ALL) -> None:
    """Write a prefetch manifest for every node from expected draws per chunk."""
    forecast = pa.table(
        {
            "chunk": np.arange(len(manifest), dtype=np.int32),
            "expected": expected.astype(np.float64),
            "probability": 1 - np.exp(-expected),
            "first_phase": np.zeros(len(manifest), np.int16),
        }
    )
    ref: LayoutRef = manifest.ref
    for node, name in enumerate(manifest.header.nodes):
        table = build_prefetch(manifest, forecast, node, budget, advice)
        write_prefetch(dataset.repository.store, dataset.repository.keys, ref, name, table)
