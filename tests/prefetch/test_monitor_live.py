"""The report and the live view show what the monitor knows, on a terminal and without one, and leave no thread."""

import io
import threading
import time

import pytest
from rich.console import Console

from foreshard.loader.live import LiveView, epoch_line, render_report
from foreshard.prefetch.monitor import EpochStats, Monitor

READY, LATE = True, False
EPOCH = EpochStats(
    7,
    steps=1000,
    samples=256_000,
    ready_steps=900,
    plan_s=0.25,
    wait_s=10.0,
    wait_fetch_s=6.0,
    wait_decode_s=2.5,
    wait_throttle_s=1.0,
    wait_queue_s=0.5,
    touches=1000,
    hits=600,
    min_hits=800,
    min_bytes=4_000_000,
    origin_bytes=5_000_000,
    origin_requests=400,
    demand_requests=12,
    prefetched_bytes=100,
    prefetched_used_bytes=70,
    peak_bytes=1_900_000,
)


def printed(renderable, width=80):
    console = Console(width=width, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()


def wait_until(condition):
    limit = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.005)


def rows(text, first):
    """Cells of the lines that begin with a word."""
    return [line.split() for line in text.splitlines() if line.split()[:1] == [first]]


def test_the_report_shows_every_figure_under_its_own_name_in_80_columns():
    monitor = Monitor(budget=2_000_000)
    monitor.batch(LATE, 0.5, "throttle", 4, 3, 64, 1_000_000)
    monitor.epoch(EPOCH)
    text = printed(render_report(monitor.snapshot()))
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    reached, waited, moved = rows(text, "7")
    assert dict(zip(rows(text, "epoch")[0][3:6], reached[3:6], strict=True)) == {
        "ready": "90.0%",
        "residency": "60.0%",
        "accuracy": "70.0%",
    }
    assert reached[6:] == ["75.0%", "1.250x"]
    assert dict(zip(rows(text, "epoch")[1], waited, strict=True)) == {
        "epoch": "7",
        "planned": "0.25",
        "waited": "10.00",
        "fetch": "6.00",
        "decode": "2.50",
        "throttle": "1.00",
        "queue": "0.50",
    }
    assert moved[1:] == ["5.0", "4.0", "400", "12", "0", "1.9"]
    assert "peak of 2.0" in text
    assert "The last 1 batches" in text


def test_a_wait_without_a_cause_is_shown_as_such():
    monitor = Monitor()
    monitor.epoch(EpochStats(1, wait_s=3.0, wait_fetch_s=1.0))
    text = printed(render_report(monitor.snapshot()))
    assert rows(text, "epoch")[1][-1] == "other"
    assert rows(text, "1")[1][-1] == "2.00"
    assert "other 2.0" in epoch_line(EpochStats(1, wait_s=3.0, wait_fetch_s=1.0), 0)


def test_what_min_would_fetch_is_not_made_up_where_it_is_not_known():
    monitor = Monitor()
    monitor.epoch(EpochStats(1, origin_bytes=5))
    text = printed(render_report(monitor.snapshot()))
    assert rows(text, "1")[0][-1] == "-"
    assert "? times its bytes" in epoch_line(EpochStats(1, origin_bytes=5), 0)


def test_the_report_of_nothing_and_of_many_epochs():
    monitor = Monitor()
    assert "nothing was read yet" in printed(render_report(monitor.snapshot()))
    for epoch in range(1, 51):
        monitor.epoch(EpochStats(epoch))
    text = printed(render_report(monitor.snapshot(), epochs=3))
    assert [epoch for epoch in range(1, 51) if rows(text, str(epoch))] == [48, 49, 50]


def test_on_a_terminal_the_last_state_stays_even_after_an_error():
    console = Console(force_terminal=True, width=80, file=io.StringIO())
    monitor = Monitor(budget=2_000_000)
    before = threading.active_count()

    def train():
        with LiveView(monitor, console=console, every=30):
            monitor.epoch(EPOCH)
            raise RuntimeError("training failed")

    with pytest.raises(RuntimeError, match="training failed"):
        train()
    assert "1.250x" in console.file.getvalue().rpartition("What was reached")[2]
    wait_until(lambda: threading.active_count() == before)


def test_without_a_terminal_every_epoch_is_one_line_while_it_runs():
    console, monitor = Console(width=40, file=io.StringIO()), Monitor(budget=2_000_000)
    monitor.epoch(EpochStats(6))  # ended before the view began
    before = threading.active_count()
    with LiveView(monitor, console=console, every=0.01) as view:
        monitor.epoch(EPOCH)
        wait_until(console.file.getvalue)
        for epoch in (8, 9):
            monitor.epoch(EpochStats(epoch))
    assert view is not None
    lines = console.file.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 7", "epoch 8", "epoch 9"]
    assert lines[0] == (
        "epoch 7: 1,000 batches, ready 90.0%, residency 60.0%, accuracy 70.0%, 75.0% of MIN's hits, 1.250 times its "
        "bytes, waited 10.0 s (fetch 6.0, decode 2.5, throttle 1.0, queue 0.5), fetched 5.0 MB, peak 1.9 of 2.0 MB"
    )
    assert "\x1b" not in console.file.getvalue()
    assert threading.active_count() == before


def test_it_can_be_silent_where_there_is_no_terminal():
    console, monitor = Console(file=io.StringIO()), Monitor()
    with LiveView(monitor, console=console, every=0.01, lines=False):
        monitor.epoch(EPOCH)
    assert console.file.getvalue() == ""
