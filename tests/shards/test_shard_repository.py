"""What is recorded stands; what is read is verified; what is missing or damaged is named."""

from dataclasses import replace

import numpy as np
import pytest
from shardkit import World, build_plan, flip_byte, make_world, splits_of

from foreshard.errors import ConfigError, ConflictError, CorruptDataError, ObjectNotFoundError, StorageError
from foreshard.keys import LayoutRef
from foreshard.shards.assemble import Figures
from foreshard.shards.repository import Repository
from foreshard.storage import ObjectStore


@pytest.fixture
def made(tmp_path) -> tuple[World, LayoutRef]:
    world = make_world(tmp_path)
    return world, world.make(build_plan(world.snapshot))


def test_snapshot_splits_and_plan_come_back(made):
    world, ref = made
    snapshot = world.repository.load_snapshot(world.snapshot.fingerprint)
    assert snapshot == world.snapshot
    assert world.repository.load_splits(snapshot.fingerprint).tolist() == splits_of(snapshot).tolist()
    plan = world.repository.load_plan(ref)
    assert plan.digest == ref.plan_digest
    assert plan.sample_ids.tolist() == build_plan(world.snapshot).sample_ids.tolist()


def test_splits_of_a_snapshot_never_change(made):
    world, _ = made
    other = splits_of(world.snapshot)
    other[0] = 1 - other[0]
    with pytest.raises(ConfigError, match=r"split in another way before; set dataset\.seed"):
        world.repository.save_snapshot(world.snapshot, other)
    with pytest.raises(ConfigError, match="299 split codes were given for a snapshot of 300 rows"):
        world.repository.save_snapshot(world.snapshot, other[1:])
    world.repository.save_snapshot(world.snapshot, splits_of(world.snapshot))


def test_a_moved_source_is_found_at_its_new_place(made):
    world, _ = made
    moved = replace(world.snapshot, url="file:///elsewhere")
    assert moved.fingerprint == world.snapshot.fingerprint
    world.repository.save_snapshot(moved, splits_of(world.snapshot))
    assert world.repository.load_snapshot(moved.fingerprint).url == "file:///elsewhere"


def test_a_plan_that_differs_in_predictions_only_finds_the_first_one_standing(made):
    world, ref = made
    plan = build_plan(world.snapshot)
    before = world.objects()
    assert world.repository.save_plan(replace(plan, predicted={"seconds": 3.0})) == ref
    assert world.objects() == before
    assert world.repository.load_plan(ref).predicted == plan.predicted


def test_everything_lies_below_the_datasets_prefix(made):
    world, ref = made
    world.repository.publish(ref)
    keys = {meta.key for meta in world.store.list("")}
    assert keys
    assert all(key.startswith("data/") for key in keys)
    assert {key.split("/")[1] for key in keys} == {"snapshots", "layouts", "shards", "publications", "current.json"}


def test_committing_and_materialising_again_changes_nothing(made):
    world, ref = made
    before = world.objects()
    again = world.repository.materialize(build_plan(world.snapshot), world.reader())
    assert (again.written_bytes, again.written_shards) == (0, 0)
    assert world.repository.commit(again.manifest) == ref
    assert world.repository.commit(world.repository.open(ref)) == ref
    assert world.objects() == before


def test_the_first_commit_stands_where_only_counts_differ(made):
    world, ref = made
    plan = build_plan(world.snapshot)
    hot = np.full(plan.chunks.num_rows, 9.0)
    again = world.repository.materialize(plan, world.reader(), figures=Figures(hot))
    assert world.repository.commit(again.manifest) == ref
    assert not world.repository.open(ref).access_counts.any()


def test_a_layout_committed_with_other_shards_is_a_conflict(made):
    world, _ = made
    made_again = world.repository.materialize(build_plan(world.snapshot), world.reader()).manifest
    parts = made_again.header.parts
    other = {**parts, "shards": replace(parts["shards"], sha256="0" * 64)}
    made_again.header = replace(made_again.header, parts=other)
    with pytest.raises(ConflictError, match="committed with another shards"):
        world.repository.commit(made_again)


def test_opening_before_the_first_publish_says_bootstrap_first(made):
    world, ref = made
    with pytest.raises(StorageError, match=r"no current layout .* bootstrap first"):
        world.repository.open()
    missing = LayoutRef("demo.e000009", ref.plan_digest)
    with pytest.raises(ObjectNotFoundError, match=r"demo\.e000009/.* is not committed"):
        world.repository.open(missing)
    with pytest.raises(ObjectNotFoundError, match="is not committed"):
        world.repository.publish(missing)
    assert world.repository.current() is None


def test_committed_layouts_are_listed_and_unfinished_ones_are_not(made):
    world, ref = made
    plan = build_plan(world.snapshot)
    later = world.make(replace(plan, generation="demo.e000012"))
    sooner = world.make(replace(plan, generation="demo.e000004"))
    other = world.make(replace(build_plan(world.snapshot, order_seed=5), generation="demo.e000012"))
    world.repository.materialize(replace(plan, generation="demo.e000020"), world.reader())
    assert world.repository.generations() == ["demo.e000000", "demo.e000004", "demo.e000012"]
    assert world.repository.layouts("demo.e000004") == [sooner]
    assert world.repository.layouts("demo.e000012") == sorted([later, other], key=lambda r: r.plan_digest)
    assert world.repository.layouts("demo.e000020") == []
    assert Repository(world.store, "empty").generations() == []
    assert world.repository.layouts("demo.e000000") == [ref]


def test_chunks_come_in_the_order_asked_for_repeats_included(made):
    world, ref = made
    manifest = world.repository.open(ref)
    wanted = [5, 0, len(manifest) - 1, 5]
    batches = world.repository.read_chunks(manifest, wanted)
    for chunk, batch in zip(wanted, batches, strict=True):
        ids = batch["sample_id"].to_numpy()
        assert set(manifest.chunk_of[ids]) == {chunk}
    assert world.repository.read_chunks(manifest, []) == []


@pytest.mark.parametrize("chunk", [-1, 10_000])
def test_a_chunk_that_does_not_exist_is_named(made, chunk):
    world, ref = made
    with pytest.raises(ConfigError, match=f"chunk {chunk} is not one of"):
        world.repository.read_chunks(world.repository.open(ref), [0, chunk])


@pytest.mark.parametrize("offset", [0, 8, 30, -1])
def test_a_flipped_bit_anywhere_in_a_chunk_is_never_returned(made, offset):
    world, ref = made
    manifest = world.repository.open(ref)
    position = int(manifest.starts[3]) + offset if offset >= 0 else int(manifest.ends[3]) - 1
    key = manifest.shard_key(3)
    flip_byte(world.path(key), position)
    with pytest.raises(CorruptDataError, match=rf"chunk 3 of layout .*{key}.*has checksum .*delete the shard"):
        world.repository.read_chunks(manifest, [1, 3])
    others = [c for c in range(len(manifest)) if c != 3]
    assert len(world.repository.read_chunks(manifest, others)) == len(others)


def test_bytes_of_another_chunk_are_not_taken_for_this_one(made):
    world, ref = made
    manifest = world.repository.open(ref)
    shard = world.store.get(manifest.shard_key(0))
    with pytest.raises(CorruptDataError, match="chunk 2 of layout"):
        manifest.decode(2, shard[manifest.starts[0] : manifest.ends[0]])


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_missing_or_short_shard_is_named_with_the_fix(made, damage):
    world, ref = made
    manifest = world.repository.open(ref)
    path = world.path(manifest.shard_key(0))
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: int(manifest.starts[0]) + 20])
    with pytest.raises(CorruptDataError, match=rf"{manifest.shard_key(0)}.*materialise this layout's plan again"):
        world.repository.read_chunks(manifest, [0])
    if damage == "short":
        path.unlink()
    world.make(build_plan(world.snapshot))
    assert len(world.repository.read_chunks(manifest, [0])) == 1


@pytest.mark.parametrize("name", ["plan.json", "manifest.json"])
def test_a_record_copied_from_another_layout_is_refused(made, name):
    world, ref = made
    plan = build_plan(world.snapshot, order_seed=3)
    other = world.make(plan)
    source = world.path(world.repository.keys.layout(other.generation, other.plan_digest, name))
    world.path(world.repository.keys.layout(ref.generation, ref.plan_digest, name)).write_bytes(source.read_bytes())
    with pytest.raises(CorruptDataError):
        world.repository.verify(ref)


def test_a_damaged_snapshot_or_split_column_is_named(made):
    world, _ = made
    keys, fingerprint = world.repository.keys, world.snapshot.fingerprint
    world.path(keys.splits(fingerprint)).write_bytes(b"nonsense")
    with pytest.raises(CorruptDataError, match=r"splits\.arrow"):
        world.repository.load_splits(fingerprint)
    world.path(keys.snapshot(fingerprint)).write_bytes(b"{}")
    with pytest.raises(CorruptDataError, match=r"snapshot\.json"):
        world.repository.load_snapshot(fingerprint)


def test_a_memory_store_works_like_any_other(made):
    world, _ = made
    repository = Repository(ObjectStore.open("memory://"), "data")
    repository.save_snapshot(world.snapshot, splits_of(world.snapshot))
    ref = repository.commit(repository.materialize(build_plan(world.snapshot), world.reader()).manifest)
    assert repository.publish(ref).changed
    assert repository.open().ref == ref
    assert repository.verify(ref).ok
