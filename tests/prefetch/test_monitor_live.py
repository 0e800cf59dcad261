"""The report and the live view show what the monitor knows, on a terminal and without one, and leave no thread."""

import io
import threading

import pytest
from rich.console import Console
from waiting import wait_until

from foreshard.loader.limits import limit_of
from foreshard.loader.live import LiveView, epoch_line, render_report, report_text
from foreshard.prefetch.monitor import BatchFigures, EpochStats, Monitor

EPOCH = EpochStats(
    7,
    steps=1000,
    samples=256_000,
    ready_steps=900,
    plan_s=0.25,
    loop_s=29.75,
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


def rows(text, first):
    """Cells of the lines that begin with a word."""
    return [line.split() for line in text.splitlines() if line.split()[:1] == [first]]


class Clock:
    """Seconds that a test sets."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def under_way(*batches, steps=10, **settings):
    """A monitor in the middle of epoch 7, a second after each batch."""
    clock = Clock()
    monitor = Monitor(clock=clock, **settings)
    monitor.begin(7, steps, 0)
    for step, figures in enumerate(batches):
        clock.now += 1.0
        monitor.batch(step, figures)
    return monitor


def test_the_report_shows_every_figure_under_its_own_name_in_80_columns():
    throttled = BatchFigures(throttle_s=0.5, touches=4, hits=3, samples=64, origin_bytes=1_000_000)
    monitor = under_way(throttled, throttled, budget=2_000_000)
    monitor.epoch(EPOCH)
    text = printed(render_report(monitor.snapshot()))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    shown = []
    for line, following in zip(text.splitlines(), text.splitlines()[2:], strict=False):
        if line.startswith(("epoch ", "samples/s")):
            names = line.replace("own steps", "own").replace("on demand", "demand").replace("MIN would", "least")
            shown.append(dict(zip(names.replace("peak of 2.0", "peak").split(), following.split(), strict=True)))
    last, reached, waited, moved = shown
    assert (last["samples/s"], last["MB/s"], last["residency"]) == ("64", "1.0", "75.0%")
    assert (last["waiting"], last["throttle"], last["fetch"]) == ("1.00", "1.00", "-")
    assert reached == {
        "epoch": "7",
        "batches": "1,000",
        "samples/s": "6,400",
        "ready": "90.0%",
        "residency": "60.0%",
        "accuracy": "70.0%",
        "hits/MIN": "75.0%",
        "bytes/MIN": "1.250x",
    }
    assert waited == {
        "epoch": "7",
        "total": "40.00",
        "planning": "0.25",
        "own": "29.75",
        "waiting": "10.00",
        "fetch": "6.00",
        "decode": "2.50",
        "throttle": "1.00",
        "queue": "0.50",
    }
    assert list(moved.values()) == ["7", "5.0", "4.0", "400", "12", "0", "1.9"]
    assert "peak of 2.0" in text
    assert "The last 2 batches, in 1.0 s" in text
    assert "Altogether: 1 epoch, 2 batches, 128 samples, 2.0 MB fetched, 1.0 s waited" in text


def test_an_epoch_under_way_shows_how_far_it_is_and_when_it_will_end():
    monitor = Monitor()
    monitor.begin(7, 400, 0)
    assert printed(render_report(monitor.snapshot())).strip() == "Epoch 7: 0 of 400 batches (0%)"
    text = printed(render_report(under_way(*[BatchFigures()] * 100, steps=400).snapshot()))
    assert "Epoch 7: 100 of 400 batches (25%), about 5:00 left" in text
    text = printed(render_report(under_way(*[BatchFigures()] * 2, steps=5002).snapshot()))
    assert "about 1:23:20 left" in text


def test_on_a_small_terminal_what_matters_most_is_left():
    monitor = under_way(BatchFigures(fetch_s=1.0), BatchFigures(fetch_s=1.0))
    for epoch in range(1, 31):
        monitor.epoch(EpochStats(epoch))
    monitor.begin(31, 400, 0)
    whole = printed(render_report(monitor.snapshot(), width=80)).splitlines()
    for height in range(5, 45):
        text = printed(render_report(monitor.snapshot(), height=height, width=80)).splitlines()
        assert len(text) <= height
        assert text == whole[: len(text)]
        assert whole[len(text) :][:1] in ([], [""])  # whole tables
    assert text == whole


def test_the_text_report_is_plain_and_explains_its_words():
    monitor = under_way(BatchFigures(samples=3))
    for epoch in range(1, 51):
        monitor.epoch(EpochStats(epoch))
    text = report_text(monitor.snapshot())
    assert "\x1b" not in text
    assert text == text.strip()
    assert "residency: share of chunk uses" in text
    assert all(rows(text, str(epoch)) for epoch in range(1, 51))
    assert report_text(Monitor().snapshot()) == "nothing was read yet"


@pytest.mark.parametrize(
    ("stats", "first", "then", "told"),
    [
        ({"loop_s": 9.8, "wait_fetch_s": 0.2}, "the training loop's own steps (98.0%", "", "data are no bottleneck"),
        ({"loop_s": 4, "wait_fetch_s": 6}, "waiting for chunks", "the training loop's own steps (40.0%", "0.5 MB/s"),
        ({"loop_s": 6, "wait_fetch_s": 4}, "the training loop's own", "waiting for chunks", "max_concurrency"),
        ({"wait_decode_s": 6, "wait_fetch_s": 4}, "waiting for rows", "waiting for chunks", "Fewer columns"),
        ({"wait_throttle_s": 10}, "waiting as the store", "", "Larger chunks"),
        ({"wait_queue_s": 9, "loop_s": 1}, "waiting for the threads", "the training loop's own", "Leave a core"),
        ({"plan_s": 6, "loop_s": 4}, "planning before the first batch (60.0%", "the training", "longer epochs"),
        ({"plan_s": 2, "loop_s": 8}, "the training loop's own steps (80.0%", "planning", "longer epochs"),
    ],
)
def test_the_limit_is_what_takes_most_of_the_time_and_advice_is_for_what_can_be_changed(stats, first, then, told):
    waited = sum(value for name, value in stats.items() if name.startswith("wait_"))
    monitor = Monitor()
    monitor.epoch(EpochStats(1, **stats, wait_s=waited, origin_bytes=5_000_000))
    limit, _, rest = limit_of(monitor.snapshot()).partition(", then ")
    assert limit.startswith(f"Limit: {first}")
    assert rest.startswith(then)
    assert bool(rest) == bool(then)
    assert told in limit + rest


def test_while_an_epoch_runs_the_limit_is_that_of_the_last_batches():
    waiting = [BatchFigures(fetch_s=0.75, origin_bytes=3_000_000)] * 5
    monitor = under_way(*waiting)
    assert limit_of(monitor.snapshot()).startswith(
        "Limit: waiting for chunks on their way (75.0% of the time, 3.0 MB/s), then"
    )
    monitor.epoch(EpochStats(7, loop_s=1.0))
    assert "own steps (100.0%" in limit_of(monitor.snapshot())
    assert limit_of(Monitor().snapshot()) == "Limit: not known yet"


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
    assert "1.250x" in console.file.getvalue().rpartition("What the epochs reached")[2]
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
