"""The prefetcher's ledger over epochs: fetches in flight, lent or failed never leak a byte nor get in the way later."""

import threading
import time

import numpy as np
import pytest
from holding import Objects
from waiting import wait_until

from foreshard.errors import DeadlineError, StorageError
from foreshard.prefetch.prefetcher import Prefetcher
from foreshard.prefetch.region import Region


class GatedOrigin:
    """Fetches of a chunk wait until it is let through; chunks in `failing` fail then."""

    def __init__(self, chunks):
        self.gates = {chunk: threading.Event() for chunk in range(chunks)}
        self.begun, self.failing = [], set()
        self.nbytes = np.ones(chunks, np.int64)

    def __call__(self, chunks):
        (chunk,) = chunks
        self.begun.append(chunk)
        assert self.gates[chunk].wait(10)
        if chunk in self.failing:
            raise StorageError(f"chunk {chunk} is gone")
        return [chunk]

    def open(self, *chunks):
        for chunk in chunks or self.gates:
            self.gates[chunk].set()


@pytest.fixture
def origin():
    return GatedOrigin(6)


@pytest.fixture
def prefetcher(origin):
    made = Prefetcher(origin, origin.nbytes, Region(4, 1), Objects(), timeout=5)
    yield made
    origin.open()
    made.close()
    assert made.region.used == made.region.bypass


def touch(prefetcher, number, chunk, *, keep=False):
    lent = prefetcher.lend(number, chunk)
    prefetcher.give_back([number], [chunk], [lent], [keep])
    return lent


def test_what_an_abandoned_epoch_had_in_flight_is_let_go(prefetcher, origin):
    prefetcher.begin([(7, 1)], frozenset(), concurrency=1)
    wait_until(lambda: origin.begun == [1])
    prefetcher.pause()
    assert prefetcher.resident() == {1}
    prefetcher.begin([], frozenset(), concurrency=1)
    origin.open(1)
    wait_until(lambda: prefetcher.region.used == prefetcher.region.bypass)
    assert prefetcher.region.entries == {}


def test_what_an_abandoned_epoch_had_in_flight_stays_no_longer_than_the_new_one_wants(prefetcher, origin):
    prefetcher.begin([(70, 1)], frozenset(), concurrency=1)
    wait_until(lambda: origin.begun == [1])
    prefetcher.begin([], frozenset({1}), concurrency=1)
    origin.open(1)
    lent = touch(prefetcher, 0, 1)
    assert not lent.bypass
    assert prefetcher.region.entries == {}  # the promise to touch 70 was another epoch's


def test_a_touch_takes_over_what_an_abandoned_epoch_had_in_flight(prefetcher, origin):
    prefetcher.begin([(7, 1)], frozenset(), concurrency=1)
    wait_until(lambda: origin.begun == [1])
    prefetcher.begin([], frozenset(), concurrency=1)
    threading.Timer(0.05, origin.open, [1]).start()
    assert not touch(prefetcher, 3, 1).bypass
    assert origin.begun == [1]


def test_a_chunk_read_on_demand_is_not_fetched_a_second_time_meanwhile(prefetcher, origin):
    lent = []
    reader = threading.Thread(target=lambda: lent.append(touch(prefetcher, 0, 2, keep=True)))
    reader.start()
    wait_until(lambda: origin.begun == [2])
    prefetcher.warm([2, 3], share=1.0, concurrency=1)
    origin.open()
    wait_until(lambda: 3 in prefetcher.region.entries)  # the request for chunk 2 came before
    reader.join(10)
    assert origin.begun == [2, 3]
    assert not lent[0].hit
    assert touch(prefetcher, 5, 2).hit


def test_a_failure_is_told_by_the_touch_that_needs_the_chunk_and_by_no_other(prefetcher, origin):
    origin.failing = {1}
    origin.open()
    prefetcher.begin([(0, 1), (1, 2)], frozenset(), concurrency=1)
    wait_until(lambda: 2 in prefetcher.region.entries)
    assert touch(prefetcher, 1, 2).entry.held == 2
    assert not touch(prefetcher, 2, 3).hit
    with pytest.raises(StorageError, match="chunk 1 is gone"):
        prefetcher.lend(3, 1)
    origin.failing = set()
    assert not touch(prefetcher, 3, 1).hit  # it did not stick
    assert prefetcher.take_traffic().failed_requests == 2  # ahead, and on demand


def test_whoever_waits_for_a_fetch_that_fails_reads_on_demand(prefetcher, origin):
    origin.failing = {1}
    prefetcher.begin([(0, 1)], frozenset(), concurrency=1)
    wait_until(lambda: origin.begun == [1])

    def recover():
        origin.open(1)
        wait_until(lambda: prefetcher._traffic.failed_requests == 1 or len(origin.begun) > 1)
        origin.failing = set()

    # The second read may begin before `recover` has repaired the origin: then it fails, and says so.
    thread = threading.Thread(target=recover)
    thread.start()
    try:
        lent = touch(prefetcher, 0, 1)
    except StorageError:
        thread.join()
        lent = touch(prefetcher, 0, 1)
    thread.join()
    assert not lent.hit


def test_close_reports_a_fetch_that_hangs_and_its_bytes_come_back_with_it(origin):
    prefetcher = Prefetcher(origin, origin.nbytes, Region(4, 1), Objects(), timeout=0.1)
    prefetcher.begin([(0, 1), (1, 2)], frozenset(), concurrency=2)
    wait_until(lambda: len(origin.begun) == 2)
    with pytest.raises(DeadlineError, match=r"fetches of the chunks \[1, 2\] did not end within 0.1 s"):
        prefetcher.close()
    assert prefetcher.region.used == 3
    origin.open()
    wait_until(lambda: not prefetcher._threads)
    prefetcher.close()
    assert prefetcher.region.used == prefetcher.region.bypass
    prefetcher.begin([(0, 4)], frozenset(), concurrency=1)  # and it may be used again
    assert touch(prefetcher, 0, 4).entry.uses == 1
    prefetcher.close()


def test_dismissed_threads_end_by_themselves(origin):
    prefetcher = Prefetcher(origin, origin.nbytes, Region(4, 1), Objects(), timeout=5)
    prefetcher.begin([(0, 1)], frozenset(), concurrency=3)
    threads = list(prefetcher._threads)
    assert len(threads) == 3
    prefetcher.dismiss()
    origin.open()
    for thread in threads:
        thread.join(5)
    assert not any(thread.is_alive() for thread in threads)
    assert prefetcher.region.used == prefetcher.region.bypass


def test_fewer_fetches_at_a_time_end_the_threads_too_many(prefetcher):
    prefetcher.begin([], frozenset(), concurrency=4)
    assert len(prefetcher._threads) == 4
    prefetcher.begin([], frozenset(), concurrency=1)
    wait_until(lambda: len(prefetcher._threads) == 1)


def test_peak_and_counters_start_anew_and_what_is_unused_is_counted_later(prefetcher, origin):
    origin.open()
    prefetcher.warm([1, 2], share=1.0, concurrency=1)
    wait_until(lambda: set(prefetcher.region.entries) == {1, 2})
    prefetcher.begin([], frozenset({1, 2}), concurrency=1)
    touch(prefetcher, 0, 1)
    one = prefetcher.take_traffic()
    assert (one.origin_bytes, one.prefetched_bytes, one.forecast_bytes, one.forecast_used_bytes) == (2, 1, 1, 1)
    assert one.peak_bytes == 3
    touch(prefetcher, 1, 2)
    two = prefetcher.take_traffic()
    assert (two.origin_bytes, two.prefetched_bytes, two.prefetched_used_bytes, two.forecast_bytes) == (0, 1, 1, 1)
    assert two.peak_bytes == 2


def test_room_that_is_set_aside_no_more_wakes_the_threads_that_take_bursts(origin):
    prefetcher = Prefetcher(origin, origin.nbytes, Region(4, 1), Objects(), timeout=5, burst=16)
    origin.open()
    prefetcher.begin([(0, 1), (1, 2), (2, 3)], frozenset(), concurrency=1, ahead=8)
    wait_until(lambda: set(prefetcher.region.entries) == {1, 2, 3})
    for number, chunk in enumerate((1, 2, 3)):
        touch(prefetcher, number, chunk, keep=True)
    prefetcher.extend([(3, 4)])
    time.sleep(0.05)  # until the thread has seen that there is no room
    wait_until(lambda: prefetcher._idle == 1)
    assert 4 not in prefetcher.region.entries
    prefetcher.cross(3, frozenset({1, 2}), ahead=2)
    wait_until(lambda: set(prefetcher.region.entries) == {1, 2, 4})
    prefetcher.close()
