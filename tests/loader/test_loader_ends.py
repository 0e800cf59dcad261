"""Jobs end in mid-epoch, by themselves or by a signal: at once, with whole logs, and go on where they were.

Every process here has a deadline; one that hangs fails its test.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from layouts import make_dataset, publish
from servers import SERVERS
from serving import TroubledStore, threads
from waiting import wait_until

from foreshard import exits
from foreshard.access.ingest import ingest
from foreshard.access.markers import list_markers, register_run
from foreshard.loader.epochs import mark_epoch
from foreshard.loader.loader import Loader
from foreshard.loader.options import LoaderOptions, Logging
from foreshard.loader.order import UniformOrder
from foreshard.prefetch.monitor import Monitor
from foreshard.prefetch.node import NodeCache
from foreshard.shards.repository import Repository
from foreshard.storage import ObjectStore

BATCH = 16
DEADLINE_S = 60
QUICK_S = 20
"""For what may not wait for the loader's own timeout, 60 s here; much less on a machine that has nothing else to do."""


def first_line(pipe):
    """Read a line and no more: what a file object reads ahead, `communicate` does not see."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(pipe, 1)):
        line += byte
    return line


class Job:
    """A process that trains; see `ending_child.py`."""

    def __init__(self, dataset, folder, how, *, endpoint=None, after=3, attempt=0):
        np.save(folder / "ids.npy", dataset.train_ids)
        job = {"url": dataset.repository.store.url, "endpoint": endpoint, "folder": str(folder), "how": how}
        self.process = subprocess.Popen(
            [
                sys.executable,
                Path(__file__).with_name("ending_child.py"),
                json.dumps({**job, "after": after, "attempt": attempt}),
            ],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONFAULTHANDLER": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert first_line(self.process.stdout.fileno()) == b"ready\n", self.process.communicate()

    def end(self, seconds=QUICK_S):
        """Wait for the end; return the exit code, what it said, and its errors."""
        try:
            out, err = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # it tells where its threads are
            pytest.fail(f"it did not end; {self.process.communicate()}")
        return self.process.returncode, out.split(), err


@pytest.fixture
def dataset(tmp_path):
    data = make_dataset(tmp_path, 400)
    publish(data, 0, seed=1)
    return data


@pytest.fixture
def on_s3(tmp_path, monkeypatch):
    """A dataset on a server of its own, and the server."""
    with SERVERS["seaweedfs"]() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        url = f"s3://{server.create_bucket()}/p"
        data = make_dataset(tmp_path, 400, ObjectStore.open(url, endpoint=server.endpoint))
        publish(data, 0, seed=1)
        yield data, server


@pytest.mark.parametrize(("how", "code"), [("exit", 0), ("raise", 1)])
def test_a_process_that_leaves_its_loop_ends_by_itself(dataset, tmp_path, how, code):
    ended, said, errors = Job(dataset, tmp_path, how).end()
    assert (ended, said) == (code, ["over"])
    assert ("on purpose" in errors) == (how == "raise")
    assert errors.count("Traceback") == (how == "raise"), "nothing but its own error"


@pytest.mark.parametrize("how", ["sleep", "read"])
@pytest.mark.parametrize(
    ("number", "handler", "code", "last"),
    [
        (signal.SIGTERM, False, -signal.SIGTERM, []),
        (signal.SIGTERM, True, 3, ["over"]),
        (signal.SIGINT, False, -signal.SIGINT, ["interrupted", "over"]),
    ],
)
def test_a_signal_ends_a_job_at_once_wherever_it_is(dataset, tmp_path, how, number, handler, code, last):
    job = Job(dataset, tmp_path, "handler" if handler else how)
    job.process.send_signal(number)
    ended, said, errors = job.end()
    assert (ended, said) == (code, last)
    assert "Exception ignored" not in errors
    assert "foreshard-" not in errors, "no thread complains"
    cache = NodeCache(tmp_path / "cache", 2000)
    with cache._shared.exclusive() as ledger:
        assert ledger.participants.listed() == [cache._shared.me], "the dead are not in the way"
    cache.close()
    assert list((tmp_path / "cache" / "parts").iterdir()) == []


def test_all_threads_of_a_loader_are_told_before_the_interpreter_ends(dataset):
    options = LoaderOptions(BATCH, memory=6000, queue_batches=1, transform_threads=2)
    loader = Loader(dataset.repository, UniformOrder(dataset.train_ids, 1), options, transform=lambda batch: batch)
    batches = iter(loader)
    next(batches)

    def known():
        return {thread.name for thread in list(exits._threads) if thread.is_alive()}

    # A thread may start between two looks.
    wait_until(lambda: set(threads()) - {"foreshard-plan_0"} <= known())
    assert {"foreshard-assemble", "foreshard-fetch-0", "foreshard-transform-0"} <= known()
    exits._end()
    assert {name for name in threads() if "plan" not in name} == set()
    loader.close()


@pytest.mark.s3
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 3)])
def test_a_job_that_waits_for_a_silent_server_ends_at_once_when_told_to(on_s3, tmp_path, number, code):
    dataset, server = on_s3
    job = Job(dataset, tmp_path, "handler" if number == signal.SIGTERM else "read", endpoint=server.endpoint)
    server.program.halt()
    time.sleep(0.5)  # it has read what it had and waits
    job.process.send_signal(number)
    try:
        ended, said, _ = job.end()
    finally:
        server.program.go_on()
    assert (ended, said[-1]) == (code, "over")


def test_a_transform_that_hangs_for_ever_does_not_keep_its_process(dataset, tmp_path):
    job = Job(dataset, tmp_path, "hang")
    job.process.send_signal(signal.SIGINT)
    ended, said, _ = job.end()
    assert (ended, said[-1]) == (-signal.SIGINT, "over")


@pytest.mark.slow
def test_logs_are_whole_or_absent_whenever_a_job_is_ended(dataset, tmp_path):
    register_run(dataset.repository.store, dataset.repository.keys, "demo", info={})
    store, keys = dataset.repository.store, dataset.repository.keys
    steps = len(dataset.train_ids) // BATCH
    for attempt in range(6):
        # About where an epoch ends, logs are written and the marker is put: a little later each time.
        job = Job(dataset, tmp_path, "read", after=(attempt + 1) * steps - 1, attempt=attempt)
        time.sleep(0.004 * attempt)
        job.process.send_signal((signal.SIGTERM, signal.SIGKILL)[attempt % 2])
        assert job.end()[0] < 0
        marked = [marker.epoch for marker in list_markers(store, keys, "demo", after=0)]
        assert marked == list(range(1, len(marked) + 1))
        if marked:
            found = ingest(store, keys, "demo", range(1, len(marked) + 1)).problems
            # A job killed between its logs and the marker leaves whole ones, which the next attempt writes again.
            assert all("another attempt wrote it" in problem.what for problem in found)
    assert marked, "some epochs came to their end"


# -- in one process ---------------------------------------------------------------------------------------


@pytest.fixture
def silent(dataset):
    """A loader whose store can fall silent, and the store."""
    store = TroubledStore(dataset.repository.store)
    order = UniformOrder(dataset.train_ids, 1)
    options = LoaderOptions(BATCH, memory=6000, queue_batches=1, timeout=60, logging=Logging("demo", "a"))
    loader = Loader(Repository(store, "demo"), order, options)
    yield loader, store
    store.gate.set()
    loader.close()


def read_into(seen, batches):
    for batch in batches:
        seen.append(batch.sample_ids)


def interrupt_when_it_waits(batches):
    """Read on until nothing comes any more, and interrupt that wait; return what came."""
    seen = []

    def watch():
        last, since = 0, time.monotonic()
        while time.monotonic() - since < 0.5:
            if len(seen) > last:
                last, since = len(seen), time.monotonic()
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    watching = threading.Thread(target=watch)
    watching.start()
    with pytest.raises(KeyboardInterrupt):
        read_into(seen, batches)
    watching.join()
    return seen


def test_an_interrupt_inside_next_comes_through_and_the_loader_goes_on_with_the_batch_it_waited_for(silent):
    loader, store = silent
    batches = iter(loader)
    head = [next(batches).sample_ids for _ in range(2)]
    store.gate.clear()
    began = time.monotonic()
    head += interrupt_when_it_waits(batches)
    assert time.monotonic() - began < QUICK_S, "it waits for no read that hangs"
    assert loader.state_dict()["step"] == len(head) < 20
    store.gate.set()
    tail = [batch.sample_ids for batch in loader]
    steps = len(loader.order.ids(1, 0, loader.order.length(1))) // BATCH
    assert (np.concatenate(head + tail) == loader.order.ids(1, 0, steps * BATCH)).all()
    wait_until(lambda: "foreshard-end" not in threads())
    assert loader.last_epoch.stats.steps == steps


class Interrupting(Monitor):
    """Is interrupted when it is told of one batch: before the training loop has it."""

    def __init__(self, after):
        super().__init__()
        self._left = after

    def batch(self, step, figures):
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt
        super().batch(step, figures)


def test_a_batch_whose_hand_over_was_interrupted_comes_again_and_is_counted_and_logged_once(silent, dataset):
    loader, _ = silent
    register_run(dataset.repository.store, dataset.repository.keys, "demo", info={})
    loader.monitor = Interrupting(4)
    seen = []
    with pytest.raises(KeyboardInterrupt):
        read_into(seen, loader)
    assert len(seen) == 3
    read_into(seen, loader)
    assert (np.concatenate(seen) == loader.order.ids(1, 0, len(seen) * BATCH)).all()
    stats = loader.last_epoch.stats
    assert (stats.steps, stats.samples) == (len(seen), len(seen) * BATCH)
    mark_epoch(dataset.repository, loader.options.logging, [loader.last_epoch])
    found = ingest(dataset.repository.store, dataset.repository.keys, "demo", range(1, 2))
    assert found.problems == ()
    assert found.events.num_rows == stats.touches
