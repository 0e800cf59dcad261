"""Networks and servers fail, ranks are killed: the order stays, every wait has a deadline, and the loader goes on."""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from faults import FAULTS, FaultProxy
from layouts import Dataset, make_dataset, publish
from servers import OWN, SERVERS
from serving import threads
from waiting import wait_until

from foreshard.errors import DeadlineError, StorageError
from foreshard.loader.loader import Loader
from foreshard.loader.options import LoaderOptions
from foreshard.loader.order import UniformOrder
from foreshard.shards.repository import Repository
from foreshard.storage import ObjectStore, Timeouts

BATCH = 16
DEADLINE_S = 60
QUICK = Timeouts(connect=2, read=1, write=2, request=15, retry=6, retries=4)
NO_RETRIES = Timeouts(connect=2, read=1, write=2, request=15, retry=6, retries=0)


@pytest.fixture(params=[pytest.param(kind, marks=pytest.mark.s3) for kind in OWN])
def own_server(request, monkeypatch):
    """A server that no other test uses: this one may kill it."""
    with SERVERS[request.param]() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


def make_data(folder, url, endpoint) -> Dataset:
    dataset = make_dataset(folder, 400, ObjectStore.open(url, endpoint=endpoint))
    publish(dataset, 0, seed=1, chunk_rows=12)
    return dataset


def make_loader(dataset, url, endpoint, timeouts=None, **options):
    """A loader with so little memory that it fetches for every batch."""
    repository = Repository(ObjectStore.open(url, endpoint=endpoint, timeouts=timeouts), "demo")
    settings = LoaderOptions(BATCH, memory=6000, queue_batches=1, **options)
    return Loader(repository, UniformOrder(dataset.train_ids, 1), settings)


def expected(loader, epoch=1):
    return loader.order.ids(epoch, 0, loader.order.length(epoch) // BATCH * BATCH)


def check(batch):
    assert (batch["sample_id"] == batch.sample_ids).all()
    assert (batch["value"] == batch.sample_ids * 10).all()


class Training(threading.Thread):
    """A training loop in a thread of its own, so that its test can see it wait."""

    def __init__(self, loader):
        super().__init__(daemon=True)
        self.loader, self.seen, self.error = loader, [], None

    def run(self):
        try:
            for batch in self.loader:
                check(batch)
                self.seen.append(batch.sample_ids)
        except Exception as error:  # noqa: BLE001 - the test raises it
            self.error = error

    def wait_until_it_waits(self):
        """Return once no batch has come for a while."""
        last, since = len(self.seen), time.monotonic()
        while time.monotonic() - since < 0.5:
            if len(self.seen) > last:
                last, since = len(self.seen), time.monotonic()
            time.sleep(0.01)

    def finish(self):
        """Wait for the end of the epoch and return its sample ids."""
        self.join(DEADLINE_S)
        assert not self.is_alive(), f"the loop hangs after {len(self.seen)} batches"
        if self.error is not None:
            raise self.error
        return np.concatenate(self.seen)


@contextmanager
def faulty_loader(tmp_path, server, timeouts):
    """Yield a loader that reads through a proxy which, once its rates are set, makes 5 % of requests fail; and it."""
    url = f"s3://{server.create_bucket()}/p"
    dataset = make_data(tmp_path, url, server.endpoint)
    with FaultProxy(server.endpoint, 5, {}, stall=3.0) as proxy:
        loader = make_loader(dataset, url, proxy.endpoint, timeouts, timeout=30)
        proxy.rates = dict.fromkeys(FAULTS, 0.05 / len(FAULTS))
        yield loader, proxy
        proxy.rates = {}
        loader.close()


def test_epochs_through_a_network_that_fails_five_percent_of_requests_are_the_same_as_through_a_sound_one(
    tmp_path, s3_server
):
    with faulty_loader(tmp_path, s3_server, QUICK) as (loader, proxy):
        epoch, begin = 0, time.monotonic()
        while not set(proxy.counts) >= set(FAULTS) - {"flip_request"}:  # a read has no body
            epoch += 1
            training = Training(loader)
            training.start()
            assert (training.finish() == expected(loader, epoch)).all()
            assert time.monotonic() - begin < DEADLINE_S
        assert loader.last_epoch.epoch == epoch
        assert proxy.requests > 10 * proxy.counts.total(), "most requests were sound"


def test_fetches_that_fail_for_good_are_counted_in_the_report_and_a_failed_loop_goes_on_where_it_stood(
    tmp_path, s3_server
):
    with faulty_loader(tmp_path, s3_server, NO_RETRIES) as (loader, _):
        epoch, fetches, begin = 0, 0, time.monotonic()
        while not fetches or epoch < 2:
            epoch, seen = epoch + 1, []
            while loader.last_epoch is None or loader.last_epoch.epoch < epoch:
                with suppress(StorageError):
                    for batch in loader:
                        check(batch)
                        seen.append(batch.sample_ids)
            assert (np.concatenate(seen) == expected(loader, epoch)).all()
            fetches += loader.last_epoch.stats.failed_requests
            assert time.monotonic() - begin < DEADLINE_S


def test_a_server_that_is_killed_and_started_again_in_mid_epoch_changes_nothing(tmp_path, own_server):
    url = f"s3://{own_server.create_bucket()}/p"
    dataset = make_data(tmp_path, url, own_server.endpoint)
    loader = make_loader(dataset, url, own_server.endpoint)
    training = Training(loader)
    training.start()
    wait_until(lambda: len(training.seen) > 2)
    own_server.program.kill()
    training.wait_until_it_waits()
    steps = len(expected(loader)) // BATCH
    assert len(training.seen) < steps, "an epoch cannot end without its server"
    assert training.error is None
    assert own_server.program.start()
    assert (training.finish() == expected(loader)).all()
    assert loader.last_epoch.stats.steps == steps
    loader.close()
    assert threads() == []


def test_a_server_that_falls_silent_surfaces_by_name_in_time_and_the_loader_goes_on_after_it(tmp_path, own_server):
    url = f"s3://{own_server.create_bucket()}/p"
    dataset = make_data(tmp_path, url, own_server.endpoint)
    loader = make_loader(dataset, url, own_server.endpoint, QUICK, timeout=1.0)
    head, batches = [], iter(loader)
    head.append(next(batches))
    own_server.program.halt()
    begin = time.monotonic()
    with pytest.raises(
        DeadlineError, match=r"within 1.0 s; .*(assembling thread is reading chunk \d+|fetches are in fl)"
    ):
        head.extend(batches)
    assert time.monotonic() - begin < DEADLINE_S / 3
    with pytest.raises(DeadlineError, match=r"chunk \d+"):
        next(iter(loader))  # another loop fares no better, and waits no longer
    assert time.monotonic() - begin < DEADLINE_S / 2
    own_server.program.go_on()
    wait_until(lambda: "foreshard-assemble" not in threads())
    tail = list(loader)
    for batch in (*head, *tail):
        check(batch)
    assert len(head) < len(expected(loader)) // BATCH
    assert (np.concatenate([batch.sample_ids for batch in (*head, *tail)]) == expected(loader)).all()
    loader.close()
    assert threads() == []


class Rank:
    """A rank in a process of its own: see `rank_child.py`."""

    def __init__(self, location, rank, *, state=None, stop=None):
        job = {"url": location.url, "endpoint": location.endpoint, "rank": rank, "world": 4, "batch": BATCH}
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("rank_child.py")],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._process.stdin.write(json.dumps({**job, "state": state, "stop": stop}))
        self._process.stdin.close()
        self.batches = []

    def read(self, count):
        """Read so many batches, or all."""
        for line in self._process.stdout:
            self.batches.append(json.loads(line))
            if len(self.batches) == count:
                return

    def finish(self):
        """Read to the end and return the exit code."""
        self.read(None)
        self._process.stdout.close()
        return self._process.wait(DEADLINE_S)

    def kill(self):
        """End it by SIGKILL, wherever it is, and return its exit code; what it printed until then counts."""
        self._process.kill()
        return self._process.returncode if self._process.stdout.closed else self.finish()


@pytest.mark.s3
def test_three_ranks_finish_when_the_fourth_is_killed_and_a_new_process_reads_the_rest_of_its_share(
    tmp_path, seaweedfs_location
):
    dataset = make_data(tmp_path, seaweedfs_location.url, seaweedfs_location.endpoint)
    order = UniformOrder(dataset.train_ids, 1)
    steps = order.length(1) // BATCH
    ranks = [Rank(seaweedfs_location, rank, stop=steps // 2 if rank == 2 else None) for rank in range(4)]
    try:
        ranks[2].read(3)
        assert ranks[2].kill() < 0
        assert [ranks[rank].finish() for rank in (0, 1, 3)] == [0, 0, 0]
        killed = ranks[2].batches
        assert 3 <= len(killed) <= steps // 2 + 1
        ranks.append(Rank(seaweedfs_location, 2, state=killed[-1][3]))
        assert ranks[-1].finish() == 0
    finally:
        for rank in ranks:
            rank.kill()
    assert [batch[0] for batch in killed + ranks[-1].batches] == list(range(steps))
    seen = np.full((steps, BATCH), -1)
    for step, positions, ids, _ in (batch for rank in ranks for batch in rank.batches):
        assert (seen[step, positions] == -1).all(), "no share is read twice"
        seen[step, positions] = ids
    assert (seen.reshape(-1) == order.ids(1, 0, steps * BATCH)).all()
