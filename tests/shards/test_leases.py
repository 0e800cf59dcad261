"""Leases: live by the store's clock, renewed or lost but never both, one per process, and gone when released."""

import multiprocessing
import os
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from shardkit import World, build_plan, make_world

from foreshard.errors import ConfigError, ConflictError, CorruptDataError, DeadlineError, ObjectNotFoundError
from foreshard.keys import DatasetKeys, LayoutRef
from foreshard.shards.gc_state import Sweep, SweepTimes
from foreshard.shards.held_lease import HeldLease
from foreshard.shards.lease_record import Lease, find_leases, new_lease, read_lease, still_live
from foreshard.shards.leases import lease_reader, lease_writer
from foreshard.shards.repository import Repository
from foreshard.storage import ObjectStore

KEYS = DatasetKeys("data")
LONG_AGO, SOON = timedelta(hours=9), SweepTimes(seconds=3, margin=1)


@pytest.fixture
def world(tmp_path) -> World:
    made = make_world(tmp_path, rows=40)
    made.repository.publish(made.make(build_plan(made.snapshot)))
    return made


def leases(world: World) -> list[Lease]:
    return [found.lease for found in find_leases(world.store, KEYS)]


def expire(world: World, held: HeldLease) -> None:
    """Let a lease's time run out, by both clocks."""
    past = (datetime.now(UTC) - LONG_AGO).isoformat()
    world.store.put(held.key, replace(read_lease(world.store.get(held.key), held.key), expires_at=past).to_json())
    os.utime(world.path(held.key), (0, 0))


def sweep(world: World, *doomed: LayoutRef, times: SweepTimes = SOON) -> Sweep:
    with HeldLease(world.store, KEYS, new_lease("gc", 60)) as clock:
        return Sweep(world.store, KEYS, clock.key, doomed, times)


class DamagingStore(ObjectStore):
    """Reads as the store it stands before, but the next `flips` answers to a look at an object have a wrong byte."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store.url, store._store, store._s3)
        self.flips = 0

    def get_tagged(self, key):
        tagged = super().get_tagged(key)
        if tagged is None or not self.flips:
            return tagged
        self.flips -= 1
        return b"?" + tagged[0][1:], tagged[1]


# -- what a lease says ---------------------------------------------------------------------------------


def test_a_lease_is_live_by_the_stores_clock_however_wrong_its_owners_is():
    written = datetime(2020, 1, 1, tzinfo=UTC)
    lease = replace(new_lease("reader", 60), expires_at=(datetime.now(UTC) - LONG_AGO).isoformat())
    assert lease.live(written, written + timedelta(seconds=59))
    assert lease.live(written, written - LONG_AGO), "written after the time was taken"
    assert not lease.live(written, written + timedelta(seconds=63))
    assert not replace(lease, revoked=True).live(written, written)


def test_the_owners_expiry_prolongs_a_lease_but_not_beyond_what_a_renewal_can():
    written, now = datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 1, 2, tzinfo=UTC)
    lease = new_lease("reader", 60)
    assert lease.live(written, now), "its owner renewed it seconds ago"
    wrong = replace(lease, expires_at=(datetime.now(UTC) + LONG_AGO).isoformat())
    assert not wrong.live(written, now), "a clock nine hours ahead keeps nothing for nine hours"


@pytest.mark.parametrize("ttl", [0, 0.5, -1, float("inf"), float("nan")])
def test_a_time_to_live_that_stores_cannot_tell_is_refused(ttl):
    with pytest.raises(ConfigError, match="ttl"):
        new_lease("reader", ttl)


@pytest.mark.parametrize("raw", [b"{}", b"no json", b'{"a": 1'])
def test_a_damaged_lease_is_an_error_that_names_it(world, raw):
    key = KEYS.lease("reader", "0" * 32)
    world.store.put(key, raw)
    with pytest.raises(CorruptDataError, match=f"{key}.*delete it once"):
        find_leases(world.store, KEYS)


# -- readers -------------------------------------------------------------------------------------------


def test_a_reader_holds_the_current_layout_until_it_is_done(world):
    before = set(threading.enumerate())
    with world.repository.lease_reader(ttl=60, run="demo") as held:
        assert held.ref == world.repository.current().ref
        [lease] = leases(world)
        assert (lease.kind, lease.layout, lease.owner.pid, lease.owner.run) == ("reader", held.ref, os.getpid(), "demo")
        assert set(threading.enumerate()) <= before, "no thread before it is asked for"
        assert held.manifest().ref == held.ref
    assert leases(world) == []
    assert set(threading.enumerate()) <= before


def test_renewals_are_counted_and_prolong_the_lease(world):
    with world.repository.lease_reader(ttl=60) as held:
        before = leases(world)[0]
        for _ in range(3):
            held.renew()
        after = leases(world)[0]
        assert after.heartbeat == 3
        assert after.expires_at >= before.expires_at


def test_a_kept_lease_is_renewed_by_its_thread_which_ends_with_it(world):
    held = world.repository.lease_reader(ttl=1)
    held.keep()
    beats = threading.Event()
    original = world.store.swap

    def swap(key, data, expected):
        original(key, data, expected)
        if leases(world)[0].heartbeat >= 3:
            beats.set()

    world.store.swap = swap
    assert beats.wait(10)
    held.release()
    assert leases(world) == []
    assert [t.name for t in threading.enumerate() if t.name.startswith("foreshard-")] == []


def test_a_holder_that_is_dropped_leaves_no_thread_behind(world):
    held = world.repository.lease_reader(ttl=60)
    held.keep()
    [thread] = [t for t in threading.enumerate() if t.name == "foreshard-lease"]
    del held
    thread.join(10)
    assert not thread.is_alive()


def test_a_late_renewal_and_a_revocation_exclude_each_other(world):
    held = world.repository.lease_reader(ttl=60)
    expire(world, held)
    [found] = find_leases(world.store, KEYS)
    held.renew()
    assert still_live(world.store, found, datetime.now(UTC), revoke=True), "the renewal came first"
    expire(world, held)
    [found] = find_leases(world.store, KEYS)
    assert not still_live(world.store, found, datetime.now(UTC), revoke=True)
    assert leases(world)[0].revoked
    old = held.key
    held.renew()
    assert held.key != old, "the layout is still there: held by another lease"
    assert not read_lease(world.store.get(held.key), held.key).revoked


def test_a_lease_that_was_renewed_between_listing_and_revocation_stays(world):
    held = world.repository.lease_reader(ttl=60)
    expire(world, held)
    [found] = find_leases(world.store, KEYS)
    original = world.store.swap

    def swap(key, data, expected):
        world.store.swap = original
        held.renew()  # right before the revocation
        original(key, data, expected)

    world.store.swap = swap
    assert still_live(world.store, found, datetime.now(UTC), revoke=True)
    assert not leases(world)[0].revoked


def test_a_reader_whose_layout_went_with_its_lease_is_told_so(world):
    held = world.repository.lease_reader(ttl=60)
    world.store.delete([held.key, KEYS.layout(held.ref.generation, held.ref.plan_digest, "manifest.json")])
    for _ in range(2):
        with pytest.raises(ObjectNotFoundError, match=r"not committed .* or gc has removed it"):
            held.renew()
    assert leases(world) == []


def _use_in_child(held: HeldLease) -> None:
    held.keep()
    held.renew()
    held.release()
    assert threading.active_count() == 1


def test_a_forked_child_reads_under_its_parents_lease_and_neither_renews_nor_releases_it(world):
    held = world.repository.lease_reader(ttl=60)
    held._lock.acquire()  # as if the thread was renewing when the process forked
    child = multiprocessing.get_context("fork").Process(target=_use_in_child, args=(held,))
    child.start()
    child.join(10)
    assert child.exitcode == 0
    held._lock.release()
    assert [(lease.owner.pid, lease.heartbeat) for lease in leases(world)] == [(os.getpid(), 0)]
    held.renew()
    held.release()
    assert leases(world) == []


def test_a_layout_that_is_not_there_is_no_lease(world):
    missing = LayoutRef("demo.e000004", "0" * 32)
    with pytest.raises(ObjectNotFoundError, match=r"demo\.e000004.*materialise"):
        world.repository.lease_reader(missing)
    with pytest.raises(ObjectNotFoundError, match="bootstrap first"):
        Repository(world.store, "other").lease_reader()
    assert leases(world) == []


# -- while garbage is collected ------------------------------------------------------------------------


def test_a_layout_that_a_sweep_removes_cannot_be_leased_but_others_can(world):
    ref = world.repository.current().ref
    going = world.make(build_plan(world.snapshot, order_seed=3, generation="demo.e000004"))
    running = sweep(world, going)
    with world.repository.lease_reader() as held:
        assert held.ref == ref
    running.decide([going])
    with pytest.raises(ObjectNotFoundError, match=f"{going} is being removed by gc"):
        world.repository.lease_reader(going)
    assert leases(world) == []
    running.end()
    with world.repository.lease_reader(going) as held:
        assert held.ref == going


def test_a_reader_waits_for_the_decision_about_its_layout_and_no_longer_than_allowed(world):
    ref = world.repository.current().ref
    running = sweep(world, ref)
    with pytest.raises(DeadlineError, match=f"gc .* to decide whether layout {ref} goes"):
        lease_reader(world.store, KEYS, world.repository.open, timeout=0.2)
    timer = threading.Timer(0.3, lambda: running.decide([]))
    timer.start()
    with lease_reader(world.store, KEYS, world.repository.open, timeout=10) as held:
        assert held.ref == ref
    timer.join()


def test_a_sweep_that_was_killed_stops_nobody_once_its_time_is_over(world):
    ref = world.repository.current().ref
    sweep(world, ref)
    os.utime(world.path(KEYS.gc), (0, 0))  # it was last written long ago
    with world.repository.lease_reader(ref) as held:
        assert held.ref == ref
    with world.repository.lease_writer("demo.e000004"):
        pass


def test_a_writer_waits_until_a_sweep_ends(world):
    running = sweep(world)
    with pytest.raises(DeadlineError, match=r"gc of dataset 'data' .* to end, 0\.2 s were allowed"):
        lease_writer(world.store, KEYS, "demo.e000004", timeout=0.2)
    assert leases(world) == []
    timer = threading.Timer(0.3, running.end)
    timer.start()
    with lease_writer(world.store, KEYS, "demo.e000004", timeout=10):
        [lease] = leases(world)
        assert (lease.kind, lease.generation) == ("writer", "demo.e000004")
    timer.join()
    assert leases(world) == []


def test_a_writer_whose_lease_was_taken_away_must_not_go_on(world):
    with world.repository.lease_writer("demo.e000004", ttl=60) as held:
        expire(world, held)
        [found] = find_leases(world.store, KEYS)
        assert not still_live(world.store, found, datetime.now(UTC), revoke=True)
        with pytest.raises(ConflictError, match=r"writer lease .* on demo\.e000004 ran out .* begin again"):
            held.renew()


def test_only_one_sweep_at_a_time_and_a_stalled_one_deletes_nothing_more(world, monkeypatch):
    first = sweep(world)
    with pytest.raises(ConflictError, match="running already"):
        sweep(world)
    os.utime(world.path(KEYS.gc), (0, 0))
    second = sweep(world)
    assert second.state.fence == first.state.fence + 1
    with pytest.raises(ConflictError, match="taken over"):
        first.decide([])
    monkeypatch.setattr("foreshard.shards.gc_state.elapsed", lambda: first._written + 2.5)
    with pytest.raises(ConflictError, match="not renewed"):
        first.check()
    with pytest.raises(ConflictError, match="not renewed"):
        first.renew()


def test_a_swap_of_the_state_whose_answer_was_lost_counts(world):
    running = sweep(world)
    original = world.store.swap

    def swap(key, data, expected):
        original(key, data, expected)
        raise ConflictError("replaced meanwhile")

    world.store.swap = swap
    running.decide([])
    running.end()
    world.store.swap = original
    sweep(world).end()


@pytest.mark.s3
def test_a_lease_that_was_damaged_on_the_way_is_read_again(seaweedfs_location):
    store = DamagingStore(seaweedfs_location.open())
    with HeldLease(store, KEYS, new_lease("reader", 60)) as held:
        store.flips = 1
        held.renew()
        assert store.flips == 0
    assert store.get_tagged(held.key) is None, "given up in the end"
