"""Garbage collection: what the policy keeps stays whole, the rest goes, and no crash leaves anything dangling."""

import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shardkit import StopError, World, build_plan, flip_byte, make_world

from foreshard.errors import ConflictError, CorruptDataError, StorageError
from foreshard.keys import DatasetKeys, LayoutRef, generation_key
from foreshard.retention import RetentionConfig
from foreshard.shards.gc import run_gc
from foreshard.shards.gc_layouts import Chain, LayoutFiles, decide
from foreshard.shards.gc_objects import check_keys
from foreshard.shards.gc_report import GcReport
from foreshard.shards.gc_state import SweepTimes, read_state
from foreshard.shards.lease_record import FoundLease, find_leases, new_lease
from foreshard.shards.pointer import Current
from foreshard.shards.repository import Repository
from foreshard.storage import ObjectMeta, ObjectStore
from foreshard.storage_writes import Write

KEYS = DatasetKeys("data")
NOW_ONLY = RetentionConfig(keep_generations=1, keep_hours=0, orphan_hours=0)
QUICK = SweepTimes(seconds=3, margin=1, batch=3, look=0)
LONG_AGO = timedelta(hours=100)


def age(world: World, keys: Iterable[str], hours: float = 100) -> None:
    """Let objects have been written some hours ago, by the store's clock."""
    for key in keys:
        then = (datetime.now(UTC) - timedelta(hours=hours)).timestamp()
        os.utime(world.path(key), (then, then))


def age_all(world: World, hours: float = 100) -> None:
    age(world, [meta.key for meta in world.store.list("data")], hours)


def publish_epochs(world: World, count: int, run: str = "demo") -> list[LayoutRef]:
    """Publish layouts of epochs 0, 4, ...; every second one has the shards of the one before."""
    refs = []
    for number in range(count):
        plan = build_plan(world.snapshot, order_seed=number // 2, generation=generation_key(run, number * 4))
        refs.append(world.make(plan))
        world.repository.publish(refs[-1])
    return refs


@pytest.fixture
def world(tmp_path) -> World:
    return make_world(tmp_path, rows=60)


def committed(world: World) -> set[LayoutRef]:
    repository = world.repository
    return {ref for generation in repository.generations() for ref in repository.layouts(generation)}


def check_whole(world: World) -> None:
    """Every committed layout, and the current one among them, verifies."""
    refs = committed(world)
    assert world.repository.current().ref in refs
    for ref in refs:
        report = world.repository.verify(ref)
        assert report.ok, report.problems


# -- the policy ----------------------------------------------------------------------------------------

START = datetime(2026, 1, 1, tzinfo=UTC)


def meta(key: str, hours: float) -> ObjectMeta:
    return ObjectMeta(key, 1, "", START + timedelta(hours=hours))


@st.composite
def histories(draw):
    """Layouts of two runs committed and published at some hours, some of them under lease, and a policy."""
    names = st.tuples(st.sampled_from("ab"), st.integers(0, 4), st.integers(0, 1))
    refs = [LayoutRef(generation_key(run, e), f"{d:032x}") for run, e, d in draw(st.sets(names, min_size=1))]
    committed = {ref: draw(st.integers(0, 90)) for ref in sorted(refs, key=str)}
    published = draw(st.lists(st.tuples(st.sampled_from(sorted(refs, key=str)), st.integers(0, 90)), max_size=6))
    leased = draw(st.sets(st.sampled_from(sorted(refs, key=str)), max_size=2))
    policy = RetentionConfig(keep_generations=draw(st.integers(1, 3)), keep_hours=draw(st.integers(0, 60)))
    return committed, sorted(published, key=lambda p: p[1]), leased, policy


@given(histories())
def test_the_policy_keeps_exactly_what_it_says(history):
    committed, published, leased, policy = history
    layouts = {
        ref: LayoutFiles(meta(KEYS.layout(ref.generation, ref.plan_digest, "manifest.json"), hours))
        for ref, hours in committed.items()
    }
    moves = [Current(ref, fence, f"{fence:032x}") for fence, (ref, _) in enumerate(published, 1)]
    records = {
        KEYS.publication(move.fence, move.token): meta("x", hours)
        for move, (_, hours) in zip(moves, published, strict=True)
    }
    held = [FoundLease(new_lease("reader", 60, layout=ref), "x", START) for ref in leased]
    chain = Chain(list(reversed(moves)), records)
    decision = decide(layouts, chain, held, policy, keys=KEYS, now=START + timedelta(hours=100))

    for ref, hours in committed.items():
        run = ref.generation[0]
        generations = list(dict.fromkeys(r.generation for r, _ in reversed(published) if r.generation[0] == run))
        replaced = [published[i + 1][1] for i in range(len(published) - 1) if published[i][0] == ref]
        expected = (
            ref in leased
            or (published and published[-1][0] == ref)
            or (ref in dict(published) and ref.generation in generations[: policy.keep_generations])
            or 100 - max([hours, *replaced[-1:]]) < policy.keep_hours
        )
        assert (ref in decision.kept) == bool(expected), (ref, decision)
    assert set(decision.kept) | set(decision.doomed) == set(committed)
    assert not set(decision.kept) & set(decision.doomed)
    assert all(decision.kept.values()), "every layout that stays has a reason"


# -- what goes and what stays --------------------------------------------------------------------------


def test_a_dry_run_tells_all_and_changes_nothing(world):
    refs = publish_epochs(world, 5)
    age_all(world)
    before = {m.key: m for m in world.store.list("data")}
    report = world.repository.plan_gc(RetentionConfig(keep_generations=2))
    assert {m.key: m for m in world.store.list("data")} == before
    assert not report.executed
    assert set(report.kept) == set(refs[3:])
    assert report.kept[refs[4]] == ("current", "published generation 1 from the last of its run")
    assert set(report.doomed) == set(refs[:3])
    amounts = report.amounts()
    assert amounts["header"].objects == 3
    assert report.total.bytes == sum(before[key].size for key in report.keys)
    assert sum(a.objects for a in amounts.values()) == len(report.keys) == len(set(report.keys))
    assert amounts["shard"].bytes == sum(before[k].size for k in report.keys if k.startswith(KEYS.shards)) > 0


def test_a_collection_deletes_what_the_dry_run_told_and_a_second_one_nothing(world):
    refs = publish_epochs(world, 5)
    age_all(world)
    policy = RetentionConfig(keep_generations=2)
    before = {m.key for m in world.store.list("data")}
    planned = world.repository.plan_gc(policy)
    seen: list[tuple[int, int]] = []
    done = run_gc(world.store, KEYS, policy, progress=lambda *step: seen.append(step), times=QUICK)
    assert done.complete
    assert done.keys == planned.keys
    assert done.deleted == len(done.keys)
    assert seen[-1] == (done.deleted, done.deleted)
    assert {m.key for m in world.store.list("data")} == before - set(planned.keys) | {KEYS.gc}
    assert committed(world) == set(refs[3:])
    check_whole(world)
    again = run_gc(world.store, KEYS, policy, times=QUICK)
    assert again.complete
    assert again.keys == []


def test_shards_that_a_kept_layout_shares_with_a_doomed_one_stay(world):
    refs = publish_epochs(world, 4)  # 2 and 3 have the same shards
    needed = {shard.key for shard in world.repository.open(refs[3]).shards}
    assert needed == {shard.key for shard in world.repository.open(refs[2]).shards}
    run_gc(world.store, KEYS, NOW_ONLY, times=QUICK)
    assert committed(world) == {refs[3]}
    assert {m.key for m in world.store.list(KEYS.shards)} == needed
    check_whole(world)


def test_what_is_younger_than_the_policy_says_stays_by_the_stores_clock(world):
    refs = publish_epochs(world, 3)
    age_all(world, hours=30)
    third = KEYS.publication(3, world.repository.current().token)
    age(world, [third], hours=2)
    policy = RetentionConfig(keep_generations=1, keep_hours=24)
    report = run_gc(world.store, KEYS, policy, times=QUICK)
    assert report.doomed == (refs[0],)
    assert "replaced as current" in report.kept[refs[1]][0], "readers without a lease were on it until two hours ago"


def test_a_leased_layout_stays_until_its_lease_is_released(world):
    refs = publish_epochs(world, 5)
    with world.repository.lease_reader(refs[0]) as held:
        report = run_gc(world.store, KEYS, NOW_ONLY, times=QUICK)
        assert set(report.kept) == {refs[0], refs[4]}
        assert report.kept[refs[0]][0].startswith(f"reader lease of process {os.getpid()} on ")
        manifest = held.manifest()
        assert len(world.repository.read_chunks(manifest, range(len(manifest)))) == len(manifest)
        check_whole(world)
    assert run_gc(world.store, KEYS, NOW_ONLY, times=QUICK).doomed == (refs[0],)
    check_whole(world)


def test_an_expired_lease_holds_nothing_and_is_removed(world):
    refs = publish_epochs(world, 4)
    held = world.repository.lease_reader(refs[0])
    expired = replace(held._lease, expires_at=(datetime.now(UTC) - LONG_AGO).isoformat())
    world.store.put(held.key, expired.to_json())
    age(world, [held.key])
    report = run_gc(world.store, KEYS, NOW_ONLY, times=QUICK)
    assert refs[0] in report.doomed
    assert report.amounts()["lease"].objects == 1
    assert find_leases(world.store, KEYS) == []


def test_while_a_writer_is_active_nothing_is_deleted(world):
    publish_epochs(world, 4)
    with world.repository.lease_writer("demo.e000016") as held:
        before = {m.key for m in world.store.list("data")}
        for report in (world.repository.plan_gc(NOW_ONLY), run_gc(world.store, KEYS, NOW_ONLY, times=QUICK)):
            assert f"a writer is active: writer lease of process {os.getpid()}" in report.blocked
            assert "(run demo) on demo.e000016" in report.blocked
            assert held.key in report.blocked
            assert not report.complete
            assert report.deleted == 0
        assert {m.key for m in world.store.list("data")} == before
    assert run_gc(world.store, KEYS, NOW_ONLY, times=QUICK).deleted > 0


def test_a_sweep_makes_way_for_a_writer_that_waits_for_it(world):
    publish_epochs(world, 4)
    waiting = [new_lease("writer", 60, generation="demo.e000016")]

    def come(_done: int, _all: int) -> None:
        if waiting:
            lease = waiting.pop()
            world.store.create(KEYS.lease("writer", lease.lease_id), lease.to_json())

    report = run_gc(world.store, KEYS, NOW_ONLY, progress=come, times=QUICK)
    assert "a writer is active" in report.blocked
    assert 0 < report.deleted < len(report.keys)
    assert read_state(world.store, KEYS)[0].phase == "idle"
    check_whole(world)


def test_unfinished_work_stays_while_it_is_young_and_can_be_resumed(world):
    publish_epochs(world, 1)
    plan = build_plan(world.snapshot, order_seed=8, generation="demo.e000004")
    world.repository.materialize(plan, world.reader())  # crashed before its commit
    age_all(world, hours=30)
    everything = {m.key for m in world.store.list("data")}
    journal = [key for key in everything if "/journal/" in key]
    age(world, journal[:1], hours=1)
    assert run_gc(world.store, KEYS, RetentionConfig(), times=QUICK).keys == [], "it went on an hour ago"
    age(world, journal)
    report = run_gc(world.store, KEYS, RetentionConfig(), times=QUICK)
    assert report.amounts()["unfinished"].objects == len([k for k in everything if "/demo.e000004/" in k]) > 1
    assert report.amounts()["shard"].objects > 0
    check_whole(world)
    world.make(plan)
    check_whole(world)


def test_what_crashed_attempts_left_beside_committed_layouts_goes(world):
    [ref] = publish_epochs(world, 1)
    left = [
        KEYS.layout(ref.generation, ref.plan_digest, name)
        for name in (
            "manifest-0123456789abcdef.arrow",
            "plan-0123456789abcdef.arrow",
            "journal/journal-0123456789abcdef.arrow",
        )
    ]
    lost = KEYS.publication(2, "ab" * 16)
    others = [f"data/layouts/{ref}/prefetch/node-0.arrow", f"data/layouts/{ref}/notes.txt", "data/layouts/readme"]
    others += ["data/shards/00/readme", "data/publications/readme", "data2/shards/x"]
    others += [f"data/{folder}/x" for folder in ("work", "leases")]
    for key in [*left, lost, *others]:
        world.store.put(key, b"{}")
    assert set(run_gc(world.store, KEYS, RetentionConfig(), times=QUICK).keys) == {left[2]}, "the others are young"
    age_all(world)
    before = {m.key for m in world.store.list("")}
    report = run_gc(world.store, KEYS, RetentionConfig(), times=QUICK)
    assert set(report.keys) == {*left[:2], lost}
    assert {m.key for m in world.store.list("")} == before - set(report.keys)
    check_whole(world)
    assert len(list(world.repository.publications())) == 1


def test_abandoned_uploads_of_the_dataset_are_swept_once_they_are_old(world):
    publish_epochs(world, 1)
    names = [f"data/shards/00/{'0' * 64}.arrow", f"data2/shards/00/{'0' * 64}.arrow"]
    for name in names:  # what a killed writer leaves in a folder
        path = world.path(f"{name}#1")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    assert run_gc(world.store, KEYS, RetentionConfig(), times=QUICK).uploads == ()
    age(world, [f"{name}#1" for name in names])
    assert [upload.key for upload in world.repository.plan_gc().uploads] == names[:1]
    report = run_gc(world.store, KEYS, RetentionConfig(), times=QUICK)
    assert [upload.key for upload in report.uploads] == names[:1]
    assert not world.path(f"{names[0]}#1").exists()
    assert world.path(f"{names[1]}#1").exists(), "another dataset's"


def test_the_history_of_publications_outlives_the_layouts(world):
    refs = publish_epochs(world, 4)
    age_all(world)
    run_gc(world.store, KEYS, NOW_ONLY, times=QUICK)
    assert [p.ref for p in world.repository.publications()] == list(reversed(refs))


# -- when things are not as they should be -------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        "data2/shards/00/" + "0" * 64 + ".arrow",
        "data/shards/00/../../../x.arrow",
        "data/current.json",
        "data/gc.json",
        "data/snapshots/" + "0" * 16 + "/snapshot.json",
        "data/runs/a/epochs/e000001.json",
        "data/layouts/demo.e000001/x",
        "/etc/passwd",
        "",
    ],
)
def test_no_key_outside_what_gc_may_delete_is_ever_deleted(key):
    with pytest.raises(StorageError, match="must not"):
        check_keys(KEYS, ["data/shards/00/" + "0" * 64 + ".arrow", key], [])


def test_no_part_that_a_kept_layout_may_need_is_ever_deleted():
    ref = LayoutRef("demo.e000001", "0" * 32)
    for name in ("manifest.json", "plan.json", "prefetch/node.arrow"):
        key = KEYS.layout(ref.generation, ref.plan_digest, name)
        check_keys(KEYS, [key], [])
        with pytest.raises(StorageError, match="must not"):
            check_keys(KEYS, [key], [ref])


@pytest.mark.parametrize("damage", ["header", "shards", "pointer", "record", "state"])
def test_where_damage_hides_what_is_needed_nothing_is_deleted(world, damage):
    publish_epochs(world, 3)
    run_gc(world.store, KEYS, RetentionConfig(), times=QUICK)
    current = world.repository.current()
    header = world.repository.header(current.ref)
    name = header.parts["shards"].name if damage == "shards" else "manifest.json"
    key = {
        "pointer": KEYS.current,
        "record": current.previous,
        "state": KEYS.gc,
    }.get(damage, KEYS.layout(current.ref.generation, current.ref.plan_digest, name))
    flip_byte(world.path(key), world.path(key).stat().st_size // 2)
    before = {m.key for m in world.store.list("data")}
    with pytest.raises(CorruptDataError, match=Path(key).name):
        run_gc(world.store, KEYS, NOW_ONLY, times=QUICK)
    assert {m.key for m in world.store.list("data")} == before


def test_a_collection_of_millions_of_shards_lists_them_folder_by_folder(world, monkeypatch):
    publish_epochs(world, 4)
    one = world.repository.plan_gc(NOW_ONLY)
    monkeypatch.setattr("foreshard.shards.gc_objects._ONE_LISTING", 0)
    listed = []
    original = world.store.list
    monkeypatch.setattr(world.store, "list", lambda prefix, **k: listed.append(prefix) or original(prefix, **k))
    assert sorted(world.repository.plan_gc(NOW_ONLY).keys) == sorted(one.keys)
    assert KEYS.shards not in listed


# -- crashes -------------------------------------------------------------------------------------------


class Crash:
    """Ends everything at the n-th moment right before or after a write, as the store itself tells them."""

    def __init__(self, at: int = -1) -> None:
        self.at, self.moments = at, 0

    def __call__(self, _: Write) -> None:
        number, self.moments = self.moments, self.moments + 1
        if 0 <= self.at <= number:
            raise StopError(number)


def reopened(folder: Path, world: World) -> World:
    """Return the world as another process sees it in a copy of its store."""
    other = World.__new__(World)
    other.folder, other.snapshot, other.store = folder.parent, world.snapshot, ObjectStore.open(folder.as_uri())
    other.repository = Repository(other.store, "data")
    return other


def test_a_crash_at_any_moment_leaves_every_layout_whole_and_the_next_collection_finishes(world):
    publish_epochs(world, 4)
    world.repository.materialize(build_plan(world.snapshot, order_seed=8, generation="demo.e000016"), world.reader())
    copy = world.folder / "copy" / "store"

    def crash(at: int) -> tuple[World, Crash]:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(world.folder / "store", copy)
        crashed = reopened(copy, world)
        crashed.store.on_write = moments = Crash(at)
        if at < 0:
            run_gc(crashed.store, KEYS, NOW_ONLY, times=QUICK)
        else:
            with pytest.raises(StopError):
                run_gc(crashed.store, KEYS, NOW_ONLY, times=QUICK)
        return reopened(copy, world), moments

    whole, moments = crash(-1)
    wanted = {m.key for m in whole.store.list("data")}
    assert moments.moments >= 60
    for at in range(moments.moments):
        survivor, _ = crash(at)
        check_whole(survivor)
        # What the killed one held runs out.
        for found in find_leases(survivor.store, KEYS):
            expired = replace(found.lease, expires_at=(datetime.now(UTC) - LONG_AGO).isoformat())
            survivor.store.put(found.key, expired.to_json())
            age(survivor, [found.key])
        if survivor.store.exists(KEYS.gc):
            age(survivor, [KEYS.gc])
        assert run_gc(survivor.store, KEYS, NOW_ONLY, times=QUICK).complete
        assert {m.key for m in survivor.store.list("data")} == wanted, at


def test_a_collection_that_failed_in_the_middle_keeps_others_out_until_its_time_is_over(world):
    publish_epochs(world, 4)

    def fail(write: Write) -> None:
        if write.action == "delete" and "/shards/" in write.key:
            raise StorageError(f"{write.key!r}: no answer")

    world.store.on_write = fail
    with pytest.raises(StorageError, match="no answer"):
        run_gc(world.store, KEYS, NOW_ONLY, times=QUICK)
    world.store.on_write = None
    with pytest.raises(ConflictError, match="running already"):
        run_gc(world.store, KEYS, NOW_ONLY, times=QUICK)
    check_whole(world)
    age(world, [KEYS.gc])
    assert run_gc(world.store, KEYS, NOW_ONLY, times=QUICK).complete


def test_a_report_of_nothing_is_empty():
    from foreshard.shards.gc_objects import CATEGORIES, GARBAGE_SCHEMA

    report = GcReport(START, {}, (), GARBAGE_SCHEMA.empty_table())
    assert report.keys == []
    assert (report.total.objects, report.total.bytes) == (0, 0)
    assert set(report.amounts()) == set(CATEGORIES)
    assert isinstance(report.garbage, pa.Table)
