"""The monitor's figures are those of the batches and epochs it was told of, from whatever thread it is read."""

import threading

import pytest

from foreshard.prefetch.monitor import BatchFigures, EpochStats, Monitor, Running
from foreshard.prefetch.rolling import RollingWindow


class Clock:
    """Seconds that a test sets."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def add(window, clock, rows):
    for seconds, figures in rows:
        clock.now += seconds
        window.add(figures)


ROWS = [
    # seconds since the batch before, and the batch
    (0.0, BatchFigures(queue_s=8.0, touches=10, hits=5, samples=64, origin_bytes=500)),
    (0.5, BatchFigures(fetch_s=0.25, touches=10, hits=10, samples=64)),
    (0.5, BatchFigures(fetch_s=0.125, decode_s=0.25, touches=20, hits=5, samples=32, origin_bytes=1500)),
    (1.0, BatchFigures(samples=32, origin_bytes=100)),
]


def test_rolling_figures_are_those_of_the_batches_in_the_window():
    clock = Clock()
    window = RollingWindow(8, clock)
    add(window, clock, ROWS)
    found = window.rolling()
    assert (found.batches, found.span_s) == (4, 2.0)
    assert found.ready_rate == 0.25
    assert found.residency_hit_rate == 20 / 40
    assert found.waits == {"fetch": 0.375, "decode": 0.25, "throttle": 0.0, "queue": 8.0}
    assert found.wait_s == 8.625


def test_rates_leave_out_what_was_before_the_span_that_they_cover():
    clock = Clock()
    window = RollingWindow(8, clock)
    add(window, clock, ROWS)
    found = window.rolling()
    assert found.samples_per_s == (64 + 32 + 32) / 2.0
    assert found.bytes_per_s == 1600 / 2.0
    assert found.wait_share == 0.625 / 2.0  # the first batch's 8 s passed before


@pytest.mark.parametrize("before", [1, 3, 4, 7, 8, 9])
def test_batches_that_left_the_window_count_no_more(before):
    clock = Clock()
    window, fresh = RollingWindow(4, clock), RollingWindow(4, clock)
    add(window, clock, [(0.1, BatchFigures(queue_s=9.0, touches=1, hits=1, samples=1, origin_bytes=10**12))] * before)
    now = clock.now
    add(window, clock, ROWS)
    clock.now = now
    add(fresh, clock, ROWS)
    assert window.rolling() == fresh.rolling()


def test_an_empty_window_and_one_batch_have_no_rates():
    window = RollingWindow(2, Clock())
    assert window.rolling().samples_per_s == window.rolling().ready_rate == window.rolling().wait_share == 0
    window.add(BatchFigures(samples=5))
    found = window.rolling()
    assert (found.batches, found.ready_rate, found.residency_hit_rate, found.samples_per_s) == (1, 1.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="window of 1 batches"):
        RollingWindow(1)


def test_totals_outlive_the_window_and_never_mix_causes():
    monitor = Monitor(4000, window=2, clock=Clock())
    for step, waits in enumerate([(0.5, 0, 0, 0), (0, 1.0, 0, 0), (0, 0, 2.0, 0), (0, 0, 0, 4.0), (0.25, 8.0, 0, 0)]):
        monitor.batch(step, BatchFigures(*waits, touches=3, hits=1, samples=10, origin_bytes=7))
    monitor.batch(5, BatchFigures(touches=3, hits=3, samples=10))
    totals = monitor.snapshot().totals
    assert (totals.batches, totals.ready, totals.samples, totals.touches) == (6, 1, 60, 18)
    assert (totals.hits, totals.origin_bytes) == (8, 35)
    assert totals.waits == {"fetch": 0.75, "decode": 9.0, "throttle": 2.0, "queue": 4.0}
    assert monitor.snapshot().rolling.batches == 2


def test_where_an_epoch_stands_is_known_while_it_runs_and_only_then():
    monitor = Monitor()
    assert monitor.snapshot().running is None
    monitor.begin(3, 100, 40)
    assert monitor.snapshot().running == Running(3, 100, 40)
    monitor.batch(42, BatchFigures())  # the next of a worker's own steps
    assert monitor.snapshot().running == Running(3, 100, 43)
    monitor.epoch(EpochStats(3))
    assert monitor.snapshot().running is None


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
            monitor.batch(0, BatchFigures(touches=2, hits=1, samples=5, origin_bytes=9))
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


def test_an_epochs_time_is_planning_waiting_and_the_loops_own_steps():
    stats = EpochStats(1, samples=300, plan_s=0.5, wait_s=1.5, loop_s=4.0)
    assert (stats.total_s, stats.samples_per_s) == (6.0, 50.0)
    assert EpochStats(1, samples=3).samples_per_s == 0
