"""Benchmarks lay out what they say they lay out: every sample once, scattered changes, shards inherited."""

import numpy as np
import pytest

from benchmarks.big_layout import CHUNK_ROWS, commit_big_layout
from benchmarks.workloads import lay_out, plan_for, successor, workload_of, write_samples
from foreshard.shards.repository import Repository
from foreshard.storage import ObjectStore


@pytest.fixture
def work(tmp_path):
    (tmp_path / "source").mkdir()
    write_samples(tmp_path / "source", 205)
    return workload_of("samples", tmp_path / "source", chunk_rows=10, shard_rows=50)


@pytest.fixture
def store(tmp_path):
    return ObjectStore.open((tmp_path / "store").as_uri())


def test_a_workloads_first_layout_holds_its_order_cut_into_chunks(work, store):
    plan = plan_for(work)
    assert [set(part) for part in np.split(plan.sample_ids, plan.offsets[1:-1])] == [
        set(work.order[start : start + 10]) for start in range(0, 205, 10)
    ]
    outcome = lay_out(work, store, plan)
    assert outcome.made.written_shards == 5
    assert outcome.made.written_bytes > 205 * 25_000
    assert Repository(store, "data").verify(outcome.ref).ok


def test_a_successor_changes_its_share_of_chunks_and_inherits_every_shard_that_holds_others(work, store):
    parent = plan_for(work)
    lay_out(work, store, parent)
    plan = successor(work, parent, 0.2)
    known = set(parent.chunks.column("content_id").to_pylist())
    new = np.array([name not in known for name in plan.chunks.column("content_id").to_pylist()])
    assert new.sum() == 4
    assert sorted(plan.sample_ids) == list(range(205))
    outcome = lay_out(work, store, plan)
    assert (outcome.made.written_shards, outcome.made.reused_shards) == (1, 5)
    moved = outcome.made.manifest.nbytes[new].sum()
    assert moved <= outcome.made.written_bytes < 1.05 * moved
    assert Repository(store, "data").verify(outcome.ref).ok


def test_a_layout_without_data_opens_like_any_other(store):
    repository = Repository(store, "data")
    manifest = repository.open(commit_big_layout(repository, 100))
    assert (len(manifest), len(manifest.chunk_of), len(manifest.shards)) == (100, 100 * CHUNK_ROWS, 4)
    assert (np.bincount(manifest.chunk_of) == CHUNK_ROWS).all()
    assert (manifest.ends <= manifest.shard_sizes[manifest.shard_of]).all()
