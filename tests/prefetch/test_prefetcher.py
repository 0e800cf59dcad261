"""The prefetcher: never over budget, never stuck, fetches nothing twice, and falls back to on-demand reads."""

import threading
import time

import numpy as np
import pytest
from holding import Objects
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshard.errors import BudgetError, DeadlineError, StorageError
from foreshard.prefetch.concurrency import Concurrency
from foreshard.prefetch.prefetcher import Prefetcher
from foreshard.prefetch.queue import PrefetchQueue, Request
from foreshard.prefetch.region import Region
from foreshard.prefetch.requests import Requests
from foreshard.simulate.belady import plan_residency


class Origin:
    """Chunks that are their number; counts fetches and watches the region's ledger while it fetches."""

    def __init__(self, nbytes, delay=0.0):
        self.nbytes, self.delay = nbytes, delay
        self.fetched = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, chunks):
        self.gate.wait(10)
        if self.delay:
            time.sleep(self.delay)
        self.fetched.extend(chunks)
        return list(chunks)


def run(trace, sizes, budget, *, concurrency=3, cache_share=0.75, warm=(), settle=False):
    """Carry out a schedule; return hits, the prefetcher and the origin."""
    nbytes = np.array(sizes, np.int64)
    origin = Origin(nbytes)
    region = Region(budget, int(nbytes.max()))
    prefetcher = Prefetcher(origin, nbytes, region, Objects(), timeout=10)
    try:
        if warm:
            prefetcher.warm(warm, share=1.0, concurrency=concurrency)
            deadline = time.monotonic() + 10
            while settle and len(prefetcher.region.entries) < len(warm) and time.monotonic() < deadline:
                time.sleep(0.001)
        chunks = np.array(trace, np.int32)
        resident = prefetcher.resident()
        cache = min(int(region.capacity * cache_share), region.capacity - region.bypass)
        plan = plan_residency(chunks, nbytes, cache, resident=resident)
        misses = np.flatnonzero(~plan.hit)
        prefetcher.begin([(int(t), trace[t]) for t in misses], plan.kept_at_start, concurrency=concurrency)
        hits = []
        for touch, chunk in enumerate(trace):
            lent = prefetcher.lend(touch, chunk)
            assert lent.entry.held == chunk
            hits.append(lent.hit)
            prefetcher.give_back([touch], [chunk], [lent], [bool(plan.keep[touch])])
    finally:
        prefetcher.close()
    return hits, plan, region, origin, prefetcher.take_traffic()


@given(
    trace=st.lists(st.integers(0, 9), min_size=1, max_size=80),
    sizes=st.lists(st.integers(1, 10), min_size=10, max_size=10),
    slack=st.integers(0, 40),
    warm=st.lists(st.integers(0, 9), unique=True, max_size=5),
)
@settings(max_examples=80, deadline=None)
def test_any_trace_completes_within_the_budget(trace, sizes, slack, warm):
    hits, plan, region, origin, traffic = run(trace, sizes, 2 * max(sizes) + slack, warm=warm)
    assert region.peak <= region.budget
    assert region.used == region.bypass  # nothing leaks
    assert traffic.origin_requests == len(origin.fetched)
    # A chunk met while it is still promised to an earlier touch can only add hits to the schedule's.
    assert sum(hits) >= plan.hit.sum() - len(warm)
    assert len(origin.fetched) <= len(trace) + len(warm)


def test_chunks_come_in_the_order_of_their_deadlines():
    hits, _, _, origin, traffic = run([4, 2, 7, 1, 0], [1] * 10, 12, concurrency=1)
    assert sorted(origin.fetched) == [0, 1, 2, 4, 7]
    assert not any(hits)
    assert traffic.prefetched_bytes + traffic.demand_requests == 5


def test_a_resident_chunk_is_not_fetched_again():
    hits, _, _, origin, _ = run([1, 2, 1, 2, 1, 2], [1] * 3, 8)
    assert len(origin.fetched) == 2
    assert hits == [False, False, True, True, True, True]


def test_a_budget_below_one_chunk_and_the_on_demand_slot_fails_at_once_naming_the_need():
    with pytest.raises(BudgetError, match="memory budget of 19 bytes is below the 20 bytes needed"):
        Region(19, 10)


def test_a_chunk_nobody_has_begun_to_fetch_is_read_on_demand():
    origin = Origin(np.ones(3, np.int64))
    prefetcher = Prefetcher(origin, origin.nbytes, Region(2, 1), Objects(), timeout=5)
    lent = prefetcher.lend(0, 2)  # no thread was started: the fallback alone
    assert not lent.hit
    prefetcher.give_back([0], [2], [lent], [True])
    assert 2 in prefetcher.region.entries
    assert prefetcher.take_traffic().demand_requests == 1


def test_a_fetch_that_never_ends_is_reported_with_what_was_awaited():
    origin = Origin(np.ones(3, np.int64))
    origin.gate.clear()
    prefetcher = Prefetcher(origin, origin.nbytes, Region(3, 1), Objects(), timeout=0.2)
    prefetcher.begin([(0, 1)], frozenset(), concurrency=1)
    try:
        time.sleep(0.05)  # let the fetch begin, so that the touch has something to wait for
        with pytest.raises(DeadlineError, match=r"chunk 1 \(1 bytes\) did not arrive within 0.2 s; 1 fetches"):
            prefetcher.lend(0, 1)
    finally:
        origin.gate.set()
        prefetcher.close()


def test_a_failed_fetch_surfaces_in_the_thread_that_waits():
    def fetch(chunks):
        raise StorageError(f"chunk {chunks[0]} is gone")

    prefetcher = Prefetcher(fetch, np.ones(3, np.int64), Region(3, 1), Objects(), timeout=5)
    prefetcher.begin([(0, 1)], frozenset(), concurrency=1)
    try:
        with pytest.raises(StorageError, match="chunk 1 is gone"):
            prefetcher.lend(0, 1)
    finally:
        prefetcher.close()
    assert prefetcher.region.used == prefetcher.region.bypass


def test_chunks_that_the_forecast_brought_count_as_hits():
    hits, _, _, origin, traffic = run([5, 6], [1] * 10, 11, warm=[5, 6, 7], settle=True)
    assert set(origin.fetched) == {5, 6, 7}
    assert hits == [True, True]
    assert (traffic.forecast_bytes, traffic.forecast_used_bytes) == (3, 2)


def test_the_forecast_fills_only_its_share_of_the_region():
    origin = Origin(np.full(10, 2, np.int64))
    prefetcher = Prefetcher(origin, origin.nbytes, Region(22, 2), Objects(), timeout=5)
    prefetcher.warm(range(10), share=0.3, concurrency=2)
    deadline = time.monotonic() + 10
    while len(prefetcher.region.entries) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    prefetcher.close()
    assert sorted(origin.fetched) == [0, 1, 2]  # 30 % of 20 bytes


def test_known_needs_go_before_forecasts_and_by_deadline():
    queue = PrefetchQueue()
    queue.push([Request(forecast=True, rank=0, chunk=9), Request(forecast=False, rank=7, chunk=1)])
    queue.push([Request(forecast=False, rank=3, chunk=2)])
    seen = []
    while (request := queue.peek()) is not None:
        assert queue.withdraw(request)
        seen.append(request.chunk)
    assert seen == [2, 1, 9]
    assert not queue.withdraw(Request(forecast=False, rank=3, chunk=2))
    assert len(queue) == 0


class Told(Concurrency):
    """Keeps what it is told of waits."""

    def __init__(self):
        super().__init__(4)
        self.waits = []

    def waited(self, seconds):
        self.waits.append(seconds)


@pytest.mark.parametrize("demand", [False, True])
@pytest.mark.parametrize(("ahead", "least", "most"), [(-9.0, 0.2, 9.0), (0.1, 0.05, 8.9), (float("inf"), 0.0, 0.0)])
def test_waits_count_from_when_the_training_loop_waits_too(demand, ahead, least, most):
    control, nbytes = Told(), np.array([5])
    origin = Origin(nbytes, delay=0.2)
    prefetcher = Prefetcher(
        origin, nbytes, Region(50, 5), Objects(), timeout=10, requests=Requests(control, None, most_bytes=5)
    )
    try:
        prefetcher.begin([] if demand else [(0, 0)], frozenset())
        began = time.perf_counter()
        prefetcher.wanted_since = began + ahead
        lent = prefetcher.lend(0, 0)
        spent = time.perf_counter() - began
        prefetcher.give_back([0], [0], [lent], [False])
    finally:
        prefetcher.close()
    assert least <= sum(control.waits) <= min(most, max(spent - max(ahead, 0), 0))
