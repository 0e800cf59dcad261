"""What the cache benchmarks compare with: policies in their plainest form, a trace of their own, a slow link."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import reactive
from benchmarks.loader_cache import CountingStore, cases, read
from benchmarks.reactive import count, min_by_epoch, trace_of
from benchmarks.throttle import Pacer, Speed, throttled
from benchmarks.workloads import lay_out, workload_of, write_samples
from foreshard.loader.options import LoaderOptions
from foreshard.loader.scheduling import EpochSchedule
from foreshard.shards.repository import Repository
from foreshard.simulate.belady import plan_residency
from foreshard.storage import ObjectStore

TRACE = np.random.default_rng(5).zipf(1.3, 3_000).clip(max=60).astype(np.int32)
EVEN = np.full(61, 10, np.int64)
UNEVEN = np.random.default_rng(6).integers(1, 30, 61)


def plain(trace, nbytes, capacity, victim):
    """A cache as a list, oldest first; `victim(held, trace, touch)` renews what was used."""
    held, hits = [], []
    for chunk in trace.tolist():
        hits.append(chunk in held)
        if chunk in held:
            victim(held, chunk)
        elif nbytes[chunk] <= capacity:
            while sum(nbytes[c] for c in held) + nbytes[chunk] > capacity:
                held.pop(0)
            held.append(chunk)
    return np.array(hits)


def renew(held, chunk):
    held.remove(chunk)
    held.append(chunk)


@pytest.mark.parametrize("nbytes", [EVEN, UNEVEN])
@pytest.mark.parametrize("capacity", [5, 29, 100, 10_000])
def test_lru_and_fifo_are_those_of_a_plain_list(nbytes, capacity):
    assert (reactive.lru(TRACE, nbytes, capacity) == plain(TRACE, nbytes, capacity, renew)).all()
    assert (reactive.fifo(TRACE, nbytes, capacity) == plain(TRACE, nbytes, capacity, lambda *_: None)).all()


@pytest.mark.parametrize("window", [1, 7, 4_000])
def test_what_is_deleted_after_use_is_a_hit_only_if_it_was_wanted_again_within_the_window(window):
    trace = TRACE.tolist()
    expected = [chunk in trace[max(at - window, 0) : at] for at, chunk in enumerate(trace)]
    assert reactive.delete_after_use(TRACE, window).tolist() == expected


def test_the_pinned_chunks_are_those_used_most_and_are_fetched_once_each():
    hit = reactive.static_top(TRACE, EVEN, 100)
    pinned = np.argsort(-np.bincount(TRACE, minlength=61), kind="stable")[:10]
    misses = TRACE[~hit]
    assert hit.sum() == np.isin(TRACE, pinned).sum() - 10
    assert np.isin(pinned, misses).all()
    assert (np.bincount(misses, minlength=61)[pinned] == 1).all()


@pytest.mark.parametrize("policy", [reactive.lru, reactive.fifo, reactive.static_top])
def test_no_policy_hits_more_often_than_min(policy):
    for capacity in (20, 100, 300):
        assert policy(TRACE, EVEN, capacity).sum() <= plan_residency(TRACE, EVEN, capacity).hit.sum()


def test_min_by_epoch_is_min_where_there_is_one_and_pays_for_what_an_epochs_end_hides():
    assert (min_by_epoch([TRACE], EVEN, 100) == plan_residency(TRACE, EVEN, 100).hit).all()
    parts = np.split(TRACE, 30)
    hidden, known = min_by_epoch(parts, EVEN, 100).sum(), plan_residency(TRACE, EVEN, 100).hit.sum()
    assert 0.8 * known < hidden < known
    assert hidden > sum(plan_residency(part, EVEN, 100).hit.sum() for part in parts)


def test_the_first_epoch_and_those_beyond_the_last_do_not_count():
    trace = [np.array([0, 1, 2], np.int32), np.array([2, 1], np.int32)]
    counted = count(trace, np.array([True, True, True, True, False, True, True]), np.array([1, 10, 100]))
    assert (counted.touches, counted.hits, counted.nbytes) == (2, 1, 10)


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    (folder / "source").mkdir()
    write_samples(folder / "source", 500, sample_bytes=100)
    work = workload_of("samples", folder / "source", chunk_rows=10, shard_rows=100)
    work = replace(work, order=np.arange(500))
    store = CountingStore(ObjectStore.open((folder / "store").as_uri()))
    repository = Repository(store, "data")
    repository.publish(lay_out(work, store).ref)
    return repository, store


def test_every_order_is_read_as_its_trace_says_and_the_store_served_what_the_loader_reports(layout):
    repository, store = layout
    manifest = repository.open()
    assert len(set(manifest.nbytes.tolist())) == 1, "the chunks are of one size"
    for case in cases(manifest):
        trace = [trace_of(case.order, manifest, epoch, 20) for epoch in (1, 2)]
        options = LoaderOptions(20, remainder="keep")
        for epoch, chunks in enumerate(trace, start=1):
            schedule = EpochSchedule(case.order, manifest, options, split=0, epoch=epoch)
            assert (schedule.touches(0, schedule.steps).chunks == chunks).all()
        done = read(repository, store, case, trace, 0.0)
        assert done.touches == len(trace[1])
        assert done.nbytes == (done.touches - done.hits) * manifest.nbytes[0]
        assert 0 <= done.hits < done.touches


def test_a_shuffle_of_whole_chunks_uses_each_once_an_epoch(layout):
    manifest = layout[0].open()
    assert sorted(trace_of(cases(manifest)[0].order, manifest, 2, 20).tolist()) == list(range(50))


# -- the slow link -------------------------------------------------------------------------------------


def test_bytes_pass_at_the_links_rate_however_late_their_sender_wakes_up():
    pacer, now, random = Pacer(1e6), 100.0, np.random.default_rng(1)
    for _ in range(1_000):
        if delay := pacer.delay(2_000, now):
            now += delay + random.uniform(0, 0.01)  # seconds overslept
        pacer.passed(now)
        now += random.uniform(0, 0.001)
    assert now - 100 == pytest.approx(2.0, rel=0.01)


def test_time_in_which_nobody_sends_is_lost_and_connections_stand_in_one_queue():
    pacer = Pacer(1e6)
    assert pacer.delay(4_000, 50.0) == pytest.approx(0.004)
    pacer.passed(50.004)
    assert pacer.delay(4_000, 50.020) == pytest.approx(0.004)
    assert pacer.delay(2_000, 50.020) == pytest.approx(0.006)
    pacer.passed(50.024)
    assert pacer.delay(1_000, 50.024) == pytest.approx(0.003)


def test_the_least_time_of_an_epoch_is_the_links_or_that_of_computing():
    speed = Speed(latency_s=0.5, rate=10)
    assert speed.least_time(100, 4, 0.1) == 10.5
    assert speed.least_time(100, 4, 3.0) == 12.0


def test_the_least_waits_of_an_order_are_those_of_a_loop_that_is_played_through():
    random = np.random.default_rng(2)
    nbytes, first_steps, speed = random.integers(1, 20, 50), random.integers(0, 30, 50), Speed(0.5, 10)
    for step_s in (0.0, 0.3, 1.0, 5.0):
        now, waits = 0.0, []
        for step in range(30):
            there = 0.5 + nbytes[first_steps <= step].sum() / 10
            waits.append(max(there - now, 0.0))
            now = max(there, now) + step_s
        found = speed.least_waits(nbytes, first_steps, 30, step_s)
        assert found == pytest.approx(waits)
        assert 30 * step_s + found.sum() == pytest.approx(now)


@pytest.mark.s3
def test_a_link_passes_everything_on_unchanged_and_counts_it(seaweedfs_location):
    direct = ObjectStore.open(seaweedfs_location.url, endpoint=seaweedfs_location.endpoint)
    blob = np.random.default_rng(3).bytes(300_000)
    with throttled(str(seaweedfs_location.endpoint), Speed(latency_s=0.001, rate=1e9)) as link:
        store = ObjectStore.open(seaweedfs_location.url, endpoint=link.endpoint)
        store.put("a/blob", blob)
        before = link.counts()
        assert store.get("a/blob") == blob == direct.get("a/blob")
        assert store.get_range("a/blob", 1_000, 201_000) == blob[1_000:201_000]
        after = link.counts()
        assert (after.requests - before.requests, after.nbytes - before.nbytes) == (2, 500_000)
        assert [meta.key for meta in store.list("a")] == ["a/blob"]
        assert store.head("a/none") is None
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda at: store.get_range("a/blob", at, at + 9), range(64))) == [
                blob[at : at + 9] for at in range(64)
            ]
