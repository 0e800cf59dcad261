"""A loader's monitor holds the figures of its batches and epochs, and shows them as text, live and to Prometheus."""

import io
import os
import re
from dataclasses import replace

import numpy as np
import pytest
from layouts import make_dataset, publish
from rich.console import Console
from serving import CountingStore

from foreshard.errors import ConfigError
from foreshard.loader import live
from foreshard.loader.assembly import Assembled
from foreshard.loader.loader import Loader
from foreshard.loader.options import LoaderOptions
from foreshard.loader.order import UniformOrder
from foreshard.loader.progress import EpochProgress
from foreshard.prefetch.monitor import Monitor
from foreshard.prefetch.traffic import Traffic
from foreshard.shards.repository import Repository

OPTIONS = LoaderOptions(32, memory=8000)


@pytest.fixture
def dataset(tmp_path):
    data = make_dataset(tmp_path, 600)
    publish(data, 0, seed=1)
    return data


@pytest.fixture
def loader(dataset):
    loader = Loader(dataset.repository, UniformOrder(dataset.train_ids, 1), OPTIONS)
    yield loader
    loader.close()


def figures(text):
    """Values of a Prometheus text by metric, their labels left out."""
    return {
        name: float(value)
        for name, value in re.findall(r"^foreshard_loader_(\w+)(?:\{.*\})? (\S+)$", text, re.MULTILINE)
    }


def test_totals_of_batches_are_the_sums_of_the_epochs(loader):
    stats = []
    for _ in range(3):
        for _ in loader:
            pass
        stats.append(loader.last_epoch.stats)
    snapshot = loader.monitor.snapshot()
    assert list(snapshot.epochs) == stats
    totals = snapshot.totals
    assert (totals.batches, totals.ready) == (sum(s.steps for s in stats), sum(s.ready_steps for s in stats))
    assert (totals.samples, totals.touches) == (sum(s.samples for s in stats), sum(s.touches for s in stats))
    assert totals.hits == sum(s.hits for s in stats)
    assert totals.origin_bytes <= sum(s.origin_bytes for s in stats)
    for cause, seconds in totals.waits.items():
        assert seconds == pytest.approx(sum(s.waits[cause] for s in stats), abs=1e-9)
    for each in stats:
        assert sum(each.waits.values()) == pytest.approx(each.wait_s, abs=1e-9)
        assert each.loop_s > 0
    assert snapshot.budget == loader.memory == 8000


def test_bytes_of_batches_are_those_the_store_served(dataset):
    store = CountingStore(dataset.repository.store)
    loader = Loader(Repository(store, "demo"), UniformOrder(dataset.train_ids, 1), OPTIONS)
    for _ in loader:
        pass
    assert loader.monitor.snapshot().totals.origin_bytes == store.served
    loader.close()


def test_where_the_loop_stands_is_what_the_training_loop_received(loader):
    steps = len(loader.order.ids(1, 0, loader.order.length(1))) // 32
    for i, _ in enumerate(loader):
        running = loader.monitor.snapshot().running
        if i + 1 < steps:
            assert (running.epoch, running.steps, running.done) == (1, steps, i + 1)
        if i == 4:
            break
    assert loader.monitor.snapshot().running.done == 5  # a loop that was left
    for _ in loader:
        pass
    assert loader.monitor.snapshot().running is None
    assert loader.monitor.snapshot().totals.batches == steps


def test_the_report_of_a_loader_is_text_of_every_epoch(loader):
    assert loader.report() == "nothing was read yet"
    for _ in range(2):
        for _ in loader:
            pass
    text = loader.report()
    assert "Altogether: 2 epochs" in text
    assert re.search(r"^Limit: ", text, re.MULTILINE)
    assert len(re.findall(r"^ +[12] ", text, re.MULTILINE)) == 2 * 3
    assert "\x1b" not in text
    # What follows from the sizes of chunks is not claimed of all: see `EpochStats.min_hits`.
    assert "no bound for others" in " ".join(text.split())


def test_the_live_view_of_a_loader_follows_it(loader, monkeypatch):
    console = Console(file=io.StringIO(), width=200)
    monkeypatch.setattr(live, "Console", lambda **_: console)
    with loader.live():
        for _ in loader:
            pass
    assert console.file.getvalue().startswith(f"epoch 1: {loader.last_epoch.stats.steps} batches")


def test_prometheus_reads_a_loaders_counters_with_its_labels(loader):
    for _ in loader:
        pass
    text = loader.prometheus({"run": "demo", "rank": "0"})
    assert figures(text)["batches_total"] == loader.last_epoch.stats.steps
    assert figures(text)["memory_budget_bytes"] == 8000
    assert 'foreshard_loader_epochs_total{run="demo",rank="0"} 1' in text
    with pytest.raises(ConfigError, match="cause"):
        loader.prometheus({"cause": "x"})


def test_a_move_to_another_layout_keeps_the_figures_and_tells_the_new_budget(dataset):
    options = replace(OPTIONS, memory=None, cache_fraction=0.5)
    loader = Loader(dataset.repository, UniformOrder(dataset.train_ids, 1), options)
    for _ in loader:
        pass
    publish(dataset, 4, seed=9)
    assert loader.refresh()
    assert loader.monitor.budget == loader.memory
    assert loader.monitor.snapshot().totals.epochs == 1
    loader.close()


def test_a_forked_child_begins_figures_of_its_own_even_while_the_parents_are_being_read(loader):
    next(iter(loader))
    with loader.monitor._lock:  # as a thread would hold it that the child does not have
        pid = os.fork()
        if pid == 0:
            code = 3
            try:
                steps = sum(1 for _ in loader)
                code = 0 if loader.monitor.snapshot().totals.batches == steps > 0 else 4
                loader.close()
            finally:
                os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# -- what a wait is attributed to ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waited", "fetch", "gather", "waits"),
    [
        (0.0, 5.0, 5.0, (0.0, 0.0, 0.0)),  # it was ready
        (1.0, 8.0, 3.0, (0.0, 1.0, 0.0)),  # the loop came when the rows were being gathered
        (5.0, 8.0, 3.0, (2.0, 3.0, 0.0)),  # it came while chunks were on their way
        (16.0, 8.0, 3.0, (8.0, 3.0, 5.0)),  # it came before anything had begun
    ],
)
def test_a_wait_is_for_the_last_things_that_a_batch_needed(waited, fetch, gather, waits):
    window = type("Window", (), {"min_hits": np.array([1]), "min_bytes": np.array([4])})()
    few = np.zeros(2, np.int32)
    made = Assembled(
        None, window, 0, few, np.array([True, False]), np.array([0, 70], np.int32), few, few, fetch, gather
    )
    progress, monitor = EpochProgress(3, None, None, 10), Monitor()
    progress.watch(monitor, 4)
    progress.deliver(made, 4, np.arange(2), np.array([30, 70]), waited)
    stats, totals = progress.stats(Traffic(origin_bytes=70)), monitor.snapshot().totals
    assert (stats.wait_fetch_s, stats.wait_decode_s, stats.wait_queue_s) == waits
    assert tuple(totals.waits[cause] for cause in ("fetch", "decode", "queue")) == waits
    assert (totals.ready, totals.touches, totals.hits, totals.origin_bytes) == (waited == 0, 2, 1, 70)


def test_a_pause_between_two_loops_is_not_the_training_loops_own_time(monkeypatch):
    now = [50.0]
    monkeypatch.setattr("foreshard.loader.progress.time.perf_counter", lambda: now[0])
    progress, steps = EpochProgress(1, None, None), iter(range(5))

    def deliver():
        few = np.zeros(1, np.int32)
        window = type("Window", (), {"min_hits": few, "min_bytes": few})()
        progress.deliver(Assembled(None, window, 0, few, few > 0, few, few, few), next(steps), few, few, 0.0)

    for seconds in (0.0, 2.0, 3.0):
        now[0] += seconds
        if not seconds:
            progress.watch(Monitor(), 0)
        deliver()
    now[0] += 1000.0
    progress.watch(Monitor(), 3)
    deliver()
    now[0] += 4.0
    deliver()
    assert progress.loop_s == 9.0
