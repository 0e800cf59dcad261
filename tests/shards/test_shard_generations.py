"""Layout after layout: unchanged shards are reused, and any generation can be made again byte for byte."""

import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shardkit import StoppingStore, World, build_plan, make_world, sample_table, successor, write_source

from foreshard.layout.plan import Plan
from foreshard.seeding import derive_seed, row_keys
from foreshard.shards.journal import journal_keys
from foreshard.shards.materialize import Execution, Materialized, materialize
from foreshard.shards.repository import Repository
from foreshard.source import SourceReader
from foreshard.storage import ObjectStore


def chain_of(world: World, length: int, *, share: float = 0.2) -> list[Plan]:
    plans = [build_plan(world.snapshot)]
    for epoch in range(1, length):
        changes = {"strategy": "hash"} if epoch == 2 else {}
        plans.append(successor(plans[-1], f"demo.e{4 * epoch:06d}", share=share, seed=epoch, **changes))
    return plans


def make_all(world: World, plans: list[Plan]) -> list[Materialized]:
    made = []
    for plan in plans:
        made.append(world.repository.materialize(plan, world.reader()))
        world.repository.publish(world.repository.commit(made[-1].manifest))
    return made


def digests(made: Materialized) -> list[str]:
    return [shard.sha256 for shard in made.manifest.shards]


def from_nothing(folder: Path, world: World, plan: Plan, execution: Execution | None = None) -> Materialized:
    store = ObjectStore.open(folder.as_uri())
    return materialize(store, Repository(store, "data").keys, plan, SourceReader(world.snapshot), execution=execution)


def test_a_successor_writes_only_what_is_new_and_reads_nothing_else(tmp_path):
    world = make_world(tmp_path, rows=2000)
    first, second = chain_of(world, 2, share=0.05)
    made = make_all(world, [first, second])
    known = set(first.chunks["content_id"].to_pylist())
    fresh = np.array([name not in known for name in second.chunks["content_id"].to_pylist()])
    moved = int(made[1].manifest.nbytes[fresh].sum())
    inherited = made[1].manifest.shard_of < second.inherited.shards
    assert inherited.sum() > 0.9 * len(inherited)
    # What remains beside the chunks are the schema and footer of each new shard: much here, nothing in real ones.
    assert made[1].written_bytes - moved <= made[1].written_shards * 4096
    assert made[1].reused_shards == second.inherited.shards


@pytest.mark.parametrize("number", [1, 2, 3])
def test_any_generation_is_made_again_from_plan_and_source_alone(tmp_path, number):
    world = make_world(tmp_path)
    plans = chain_of(world, 4)
    made = make_all(world, plans)
    plan = Plan.from_bytes(*plans[number].to_bytes())
    assert plan.inherited.shards
    assert len(plan.inherited.retired_rows)
    again = from_nothing(tmp_path / "elsewhere", world, plan)
    assert digests(again) == digests(made[number])
    for kind in ("shards", "index", "manifest"):
        assert again.manifest.header.parts[kind] == made[number].manifest.header.parts[kind], kind


def test_bytes_do_not_depend_on_how_the_plan_is_executed(tmp_path):
    world = make_world(tmp_path, rows=600)
    plan = chain_of(world, 3)[-1]
    spool = tmp_path / "spool"
    spool.mkdir()
    whole = digests(from_nothing(tmp_path / "whole", world, plan))
    executions = {
        "serial": Execution(workers=1, group_bytes=1),
        "threads": Execution(workers=4, group_bytes=2000, spool=spool),
    }
    for name, execution in executions.items():
        assert digests(from_nothing(tmp_path / name, world, plan, execution)) == whole, name
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        execution = Execution(workers=2, executor=pool, group_bytes=2000)
        assert digests(from_nothing(tmp_path / "processes", world, plan, execution)) == whole
    assert list(spool.iterdir()) == []


def test_a_second_attempt_takes_over_what_the_first_has_put(tmp_path, monkeypatch):
    world = make_world(tmp_path, rows=600)
    plan = build_plan(world.snapshot)
    store = StoppingStore(tmp_path / "store", stop_at=9)
    one_by_one = Execution(workers=1, group_bytes=1)
    with pytest.raises(Exception, match="data/"):
        materialize(store, world.repository.keys, plan, world.reader(), execution=one_by_one)
    recorded = journal_keys(world.store, world.repository.keys, plan.ref)
    assert recorded
    built: list[int] = []
    import foreshard.shards.materialize as module

    real = module.make_group
    monkeypatch.setattr(
        module, "make_group", lambda task, putter: built.extend(s.number for s in task.shards) or real(task, putter)
    )
    again = world.repository.materialize(plan, world.reader(), execution=one_by_one)
    assert again.reused_shards >= len(recorded)
    assert len(built) == again.manifest.header.shards - len(recorded), "recorded shards are not even made"
    ref = world.repository.commit(again.manifest)
    assert journal_keys(world.store, world.repository.keys, ref) == []
    assert world.repository.verify(ref).ok


def test_a_damaged_journal_is_not_believed(tmp_path):
    world = make_world(tmp_path)
    plan = build_plan(world.snapshot)
    made = world.repository.materialize(plan, world.reader())
    [key] = journal_keys(world.store, world.repository.keys, plan.ref)
    raw = bytearray(world.path(key).read_bytes())
    raw[700] ^= 1
    world.path(key).write_bytes(bytes(raw))
    again = world.repository.materialize(plan, world.reader())
    assert digests(again) == digests(made)
    assert again.written_bytes == 0
    assert world.repository.verify(world.repository.commit(again.manifest)).ok


def test_a_shard_that_is_gone_is_made_again_whoever_recorded_it(tmp_path):
    world = make_world(tmp_path)
    plans = chain_of(world, 2)
    made = make_all(world, plans[:1])[0]
    lost = made.manifest.shards[0]
    world.path(lost.key).unlink()
    for plan in plans:
        again = world.repository.materialize(plan, world.reader())
        ref = world.repository.commit(again.manifest)
        assert world.repository.verify(ref).ok
    assert world.store.head(lost.key) is not None


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**16), st.floats(0.02, 0.5))
def test_rows_splits_and_checksums_hold_over_ten_generations(seed, share):
    with tempfile.TemporaryDirectory() as name:
        table = sample_table(240)
        folder = Path(name)
        world = World(folder, write_source(folder / "source", table), ObjectStore.open((folder / "store").as_uri()))
        plan = build_plan(world.snapshot, chunk_rows=8)
        split_of = None
        for generation in range(10):
            if generation:
                plan = successor(plan, f"demo.e{generation:06d}", share=share, seed=seed + generation)
            ref = world.make(plan)
            report = world.repository.verify(ref)
            assert report.ok, report.problems
            manifest = world.repository.open(ref)
            splits = manifest.splits[manifest.chunk_of]
            assert split_of is None or np.array_equal(splits, split_of), "no row ever changes its split"
            split_of = splits
            out = pa.Table.from_batches(world.repository.read_chunks(manifest, np.arange(len(manifest))))
            assert out.sort_by("sample_id").drop_columns("sample_id").equals(table)


def test_merging_the_chunks_of_any_layout_by_row_key_gives_one_order(tmp_path):
    """A keyed sort orders rows by their global ids alone, so it survives re-chunking, and filtering too."""
    world = make_world(tmp_path)
    seed = derive_seed(purpose="order", root=1)
    merged = []
    for plan in [*chain_of(world, 3), build_plan(world.snapshot, generation="other.e000000", chunk_rows=37, nodes=5)]:
        manifest = world.repository.open(world.make(plan))
        ids = np.concatenate(
            [b["sample_id"].to_numpy() for b in world.repository.read_chunks(manifest, np.arange(len(manifest)))]
        )
        merged.append(ids[np.argsort(row_keys(seed, ids), kind="stable")])
    assert all(np.array_equal(order, merged[0]) for order in merged)
    kept = merged[0][merged[0] % 3 == 0]
    some = np.arange(0, 300, 3)
    assert np.array_equal(some[np.argsort(row_keys(seed, some), kind="stable")], kept)


def test_other_names_of_nodes_and_generation_change_no_byte_of_a_recorded_plan(tmp_path):
    world = make_world(tmp_path)
    plan = build_plan(world.snapshot, nodes=3)
    made = make_all(world, [plan])[0]
    renamed = replace(plan, nodes=("x", "y", "z"), generation="other.e000008")
    assert digests(from_nothing(tmp_path / "b", world, renamed)) == digests(made)
