"""The monitor's figures are those of the batches and epochs it was told of, from whatever thread it is read."""

import threading

import numpy as np
import pytest

from foreshard.prefetch.monitor import CAUSES, EpochStats, Monitor, min_hits, min_traffic
from foreshard.prefetch.rolling import RollingWindow

READY, LATE = True, False


class Clock:
    """Seconds that a test sets."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def add(window, clock, rows):
    for seconds, *row in rows:
        clock.now += seconds
        window.add(*row)


ROWS = [
    # seconds since the batch before, ready, waited, cause, touches, hits, samples, bytes
    (0.0, True, 0.0, None, 10, 5, 64, 500),
    (0.5, False, 0.3, "fetch", 10, 10, 64, 0),
    (0.5, False, 0.25, "decode", 20, 5, 32, 1500),
    (1.0, False, 0.125, None, 0, 0, 32, 100),
]


def test_rolling_figures_are_those_of_the_batches_in_the_window():
    clock = Clock()
    window = RollingWindow(8, clock)
    add(window, clock, ROWS)
    found = window.rolling()
    assert (found.batches, found.span_s) == (4, 2.0)
    assert found.ready_rate == 0.25
    assert found.residency_hit_rate == 20 / 40
    assert found.samples_per_s == (64 + 32 + 32) / 2.0  # the first batch was made before the span
    assert found.bytes_per_s == 1600 / 2.0
    assert found.waits == {"fetch": 0.3, "decode": 0.25, "throttle": 0.0, "queue": 0.0}
    assert found.unattributed_s == 0.125
    assert found.wait_s == 0.675


@pytest.mark.parametrize("before", [1, 3, 4, 7, 8, 9])
def test_batches_that_left_the_window_count_no_more(before):
    clock = Clock()
    window, fresh = RollingWindow(4, clock), RollingWindow(4, clock)
    add(window, clock, [(0.1, False, 9.0, "queue", 1, 1, 1, 10**12)] * before)
    now = clock.now
    add(window, clock, ROWS)
    clock.now = now
    add(fresh, clock, ROWS)
    assert window.rolling() == fresh.rolling()


def test_an_empty_window_and_one_batch_have_no_rates():
    window = RollingWindow(2, Clock())
    assert window.rolling().samples_per_s == window.rolling().ready_rate == 0
    window.add(READY, 0.0, None, 0, 0, 5, 0)
    found = window.rolling()
    assert (found.batches, found.ready_rate, found.residency_hit_rate, found.samples_per_s) == (1, 1.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="window of 1 batches"):
        RollingWindow(1)


def test_a_cause_that_is_none_is_an_error_not_another_one():
    with pytest.raises(KeyError):
        RollingWindow(2).add(LATE, 1.0, "network", 0, 0, 0, 0)


def test_totals_outlive_the_window_and_never_mix_causes():
    clock = Clock()
    monitor = Monitor(4000, window=2, clock=clock)
    for cause in (*CAUSES, None, "fetch"):
        monitor.batch(LATE, 0.5, cause, 3, 1, 10, 7)
    monitor.batch(READY, 0.0, None, 3, 3, 10, 0)
    totals = monitor.snapshot().totals
    assert (totals.batches, totals.ready, totals.samples, totals.touches) == (7, 1, 70, 21)
    assert (totals.hits, totals.origin_bytes, totals.unattributed_s) == (9, 42, 0.5)
    assert totals.waits == {"fetch": 1.0, "decode": 0.5, "throttle": 0.5, "queue": 0.5}
    assert monitor.snapshot().rolling.batches == 2


def test_epochs_are_kept_in_order_up_to_a_bound_and_counted_beyond_it():
    monitor = Monitor(budget=10)
    for epoch in range(1, 1102):
        monitor.epoch(EpochStats(epoch))
    snapshot = monitor.snapshot()
    assert [stats.epoch for stats in snapshot.epochs] == list(range(102, 1102))
    assert snapshot.totals.epochs == 1101
    assert snapshot.budget == 10


def test_a_snapshot_taken_by_another_thread_is_consistent():
    monitor = Monitor(window=64)
    done = threading.Event()

    def train():
        for _ in range(20_000):
            monitor.batch(READY, 0.0, None, 2, 1, 5, 9)
        done.set()

    thread = threading.Thread(target=train)
    thread.start()
    seen = []
    while not done.wait(0.001):
        seen.append(monitor.snapshot())
    thread.join()
    for snapshot in [*seen, monitor.snapshot()]:
        totals, rolling = snapshot.totals, snapshot.rolling
        assert totals.samples == 5 * totals.batches == 5 * totals.ready
        assert (totals.touches, totals.hits, totals.origin_bytes) == tuple(totals.batches * n for n in (2, 1, 9))
        assert rolling.batches == min(totals.batches, 64)
        assert rolling.ready_rate == (1.0 if rolling.batches else 0.0)
    assert monitor.snapshot().totals.batches == 20_000


def test_waits_by_cause_and_bytes_of_min_add_up_over_loaders():
    one = EpochStats(2, wait_s=4, wait_fetch_s=1, wait_decode_s=2, wait_throttle_s=0.5, wait_queue_s=0.5)
    other = EpochStats(2, wait_s=1, wait_fetch_s=1, origin_bytes=300, min_bytes=100)
    both = one + other
    assert both.epoch == 2
    assert both.waits == {"fetch": 2, "decode": 2, "throttle": 0.5, "queue": 0.5}
    assert sum(both.waits.values()) == both.wait_s
    assert both.origin_over_min == 3
    figures = both.figures()
    assert (figures["origin_over_min"], figures["min_bytes"], figures["wait_decode_s"]) == (3, 100, 2)
    assert EpochStats(1, origin_bytes=5).origin_over_min == 1  # MIN's bytes are not known


def test_min_fetches_what_it_does_not_hit():
    chunks, nbytes = np.array([0, 1, 2, 0, 1, 2, 0], np.int32), np.array([10, 10, 10], np.int64)
    # With room for two, MIN keeps 0 and 1, and at the end 0; 2 is fetched for both of its touches.
    found = min_traffic(chunks, nbytes, 20, frozenset())
    assert found.hits == min_hits(chunks, nbytes, 20, frozenset()) == 3
    assert found.nbytes == 40
    assert min_traffic(chunks, nbytes, 20, frozenset({0})).nbytes == 30
    assert min_traffic(chunks, nbytes, 30, frozenset({0, 1, 2})).nbytes == 0
