"""A loader never hangs, never leaves a thread behind, says what is wrong, and goes on once it is right again."""

import gc
import math
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from layouts import make_dataset, publish
from serving import TroubledStore, threads
from waiting import wait_until

from foreshard.errors import BudgetError, ConfigError, CorruptDataError, DeadlineError, StorageError
from foreshard.loader.loader import Loader
from foreshard.loader.options import LoaderOptions
from foreshard.loader.order import UniformOrder
from foreshard.shards.repository import Repository
from foreshard.storage import ObjectStore

BATCH = 16


@pytest.fixture
def dataset(tmp_path):
    data = make_dataset(tmp_path, 400)
    publish(data, 0, seed=1)
    return data


@pytest.fixture
def troubled(dataset):
    """A loader and the store that it reads through."""
    store = TroubledStore(dataset.repository.store)
    order = UniformOrder(dataset.train_ids, 1)
    loader = Loader(Repository(store, "demo"), order, LoaderOptions(BATCH, memory=6000, timeout=0.5))
    yield loader, store
    store.gate.set()
    store.broken = False
    loader.close()


def expected(loader, epoch=1):
    return loader.order.ids(epoch, 0, loader.order.length(epoch) // BATCH * BATCH)


def ids_of(batches):
    return np.concatenate([batch.sample_ids for batch in batches])


def test_what_fetches_knows_since_when_the_training_loop_waits(dataset):
    store = TroubledStore(dataset.repository.store)
    options = LoaderOptions(BATCH, memory=6000, queue_batches=1, timeout=60)
    loader = Loader(Repository(store, "demo"), UniformOrder(dataset.train_ids, 1), options)
    batches = iter(loader)
    next(batches)
    prefetcher = loader._held.prefetcher
    assert prefetcher.wanted_since == math.inf
    store.gate.clear()
    reading = threading.Thread(target=ids_of, args=[batches])
    reading.start()
    wait_until(lambda: prefetcher.wanted_since < time.perf_counter())
    store.gate.set()
    reading.join()
    assert prefetcher.wanted_since == math.inf
    loader.close()


def damage(dataset, change):
    """Change the bytes of every shard of the current layout; return their keys."""
    manifest = dataset.repository.open()
    folder = dataset.repository.store.filesystem()[1]
    for shard in manifest.shards:
        with open(f"{folder}/{shard.key}", "r+b") as handle:  # noqa: PTH123
            raw = handle.read()
            handle.seek(0)
            handle.write(change(raw))
            handle.truncate()
    return [shard.key for shard in manifest.shards]


def test_a_corrupt_chunk_surfaces_naming_its_shard(dataset, troubled):
    keys = damage(dataset, lambda raw: bytes(byte ^ 1 for byte in raw))
    with pytest.raises(CorruptDataError, match="shard") as caught:
        list(troubled[0])
    assert any(key in str(caught.value) for key in keys)


def test_a_truncated_shard_surfaces_naming_its_key(dataset, troubled):
    keys = damage(dataset, lambda raw: raw[:64])
    with pytest.raises(StorageError, match="64 bytes") as caught:
        list(troubled[0])
    assert any(key in str(caught.value) for key in keys)


def test_a_failing_store_surfaces_and_the_loop_goes_on_where_it_stood_once_it_is_repaired(troubled):
    loader, store = troubled
    head = []
    batches = iter(loader)
    head.append(next(batches))
    store.broken = True
    with pytest.raises(StorageError, match="broken on purpose"):
        head.extend(batches)
    store.broken = False
    tail = list(loader)
    assert len(head) < 20
    assert (ids_of([*head, *tail]) == expected(loader)).all()
    assert (ids_of(loader) == expected(loader, 2)).all()
    assert loader.last_epoch.epoch == 2


def test_a_prefetch_that_fails_in_passing_is_counted_and_read_again(troubled):
    loader, store = troubled
    failures = iter([True, True])
    original = store.get_range

    def sometimes(key, start, end):
        if next(failures, False):
            raise StorageError("a passing trouble")
        return original(key, start, end)

    store.get_range = sometimes
    store.ready = lambda *_range: False
    held = loader._held.prefetcher
    held.warm(np.flatnonzero(loader.manifest.splits == 0)[:2].tolist(), share=1.0, concurrency=1)
    wait_until(lambda: held._traffic.failed_requests == 2)
    assert held.region.used == held.region.bypass
    assert (ids_of(loader) == expected(loader)).all()
    assert loader.last_epoch.stats.failed_requests == 2


def test_a_store_that_hangs_surfaces_within_the_timeout_and_the_loader_can_be_used_again(troubled):
    loader, store = troubled
    store.gate.clear()
    start = time.monotonic()
    with pytest.raises(DeadlineError, match=r"within 0.5 s; .*(assembling thread is reading chunk|fetches are in fl)"):
        next(iter(loader))
    assert time.monotonic() - start < 3 * 0.5 + 1  # two waits of a timeout and a slow machine
    with pytest.raises(DeadlineError):
        loader.close()
    store.gate.set()
    wait_until(lambda: not threads())
    assert (ids_of(loader) == expected(loader)).all()
    region = loader._held.prefetcher.region
    loader.close()
    assert region.used == region.bypass
    assert threads() == []


def test_no_thread_outlives_close_and_a_closed_loader_may_be_used_again(troubled):
    loader, _ = troubled
    assert threads() == []  # none before the first batch
    batches = iter(loader)
    head = [next(batches), next(batches)]
    assert "foreshard-assemble" in threads()
    loader.close()
    assert threads() == []
    tail = list(loader)
    assert (ids_of([*head, *tail]) == expected(loader)).all()
    loader.close()
    assert threads() == []


def test_a_loader_that_is_dropped_without_close_leaves_no_thread(dataset):
    loader = Loader(dataset.repository, UniformOrder(dataset.train_ids, 1), LoaderOptions(BATCH, memory=6000))
    list(loader)
    assert threads()
    del loader
    gc.collect()
    wait_until(lambda: not threads())


def test_an_abandoned_iterator_leaves_no_assembling_thread_and_no_bytes(troubled):
    loader, _ = troubled
    for stop in (1, 3, 2):
        for _batch, _ in zip(loader, range(stop), strict=False):
            pass
        assert "foreshard-assemble" not in threads()
    loader.close()
    region = loader._held.prefetcher.region
    assert region.used == region.bypass
    assert region.entries == {}


def test_a_loop_that_close_ended_says_so_and_does_not_disturb_the_next(troubled):
    loader, _ = troubled
    old = iter(loader)
    head = [next(old)]
    loader.close()
    new = iter(loader)
    middle = [next(new)]
    with pytest.raises(ConfigError, match="this loop was ended by the loader's close"):
        next(old)
    with pytest.raises(ConfigError, match="being iterated already"):
        next(iter(loader))
    assert (ids_of([*head, *middle, *new]) == expected(loader)).all()


@pytest.mark.parametrize("use", ["warm", "set_epoch", "load_state_dict"])
def test_what_belongs_between_epochs_is_refused_inside_a_loop(troubled, use):
    loader, _ = troubled
    arguments = {"set_epoch": (3,), "load_state_dict": (loader.state_dict(),)}.get(use, ())
    batches = iter(loader)
    next(batches)
    with pytest.raises(ConfigError, match="being iterated already"):
        getattr(loader, use)(*arguments)
    batches.close()
    getattr(loader, use)(*arguments)


def test_an_epoch_ends_with_its_last_batch_even_if_nobody_asks_for_more(troubled):
    loader, _ = troubled
    batches = iter(loader)
    steps = len(expected(loader)) // BATCH
    for _ in range(steps):
        next(batches)
    assert loader.last_epoch.epoch == 1
    assert loader.last_epoch.stats.steps == steps
    assert (loader.state_dict()["epoch"], loader.state_dict()["step"]) == (2, 0)
    assert (ids_of(loader) == expected(loader, 2)).all()


def test_an_epoch_read_in_parts_is_reported_as_a_whole(troubled):
    loader, _ = troubled
    for stop in (1, 4):
        for batch, _ in zip(loader, range(stop), strict=False):
            assert batch.epoch == 1
    list(loader)
    stats = loader.last_epoch.stats
    assert stats.samples == len(expected(loader))
    assert stats.steps == loader.last_epoch.steps
    assert stats.hits <= stats.min_hits <= stats.touches
    assert 0 <= stats.prefetch_accuracy <= 1


def test_a_refresh_that_does_not_fit_leaves_the_loader_with_its_layout(dataset):
    old = dataset.repository.open()
    memory = 2 * int(old.nbytes[old.splits == 0].max())
    loader = Loader(dataset.repository, UniformOrder(dataset.train_ids, 1), LoaderOptions(BATCH, memory=memory))
    publish(dataset, 4, seed=2, chunk_rows=300)
    with pytest.raises(BudgetError):
        loader.refresh()
    assert loader.layout == old.ref
    for batch in loader:
        assert (batch["value"] == batch.sample_ids * 10).all()
    loader.close()


def in_child(action):
    """Run something in a forked child under a deadline; return its exit code, 1 if it raised."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)  # a child that hangs is killed
        code = 1
        try:
            code = action()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("moment", ["unused", "between epochs", "inside a loop"])
def test_a_forked_child_reads_on_with_threads_of_its_own(dataset, moment):
    loader = Loader(dataset.repository, UniformOrder(dataset.train_ids, 1), LoaderOptions(BATCH, memory=6000))
    batches, done = iter(loader), 0
    if moment == "between epochs":
        list(loader)
    if moment == "inside a loop":
        done = len(next(batches))
    epoch = loader.state_dict()["epoch"]

    def read():
        right = (ids_of(loader) == expected(loader, epoch)[done:]).all()
        loader.close()
        return 0 if right and loader.last_epoch.epoch == epoch and not threads() else 3

    assert in_child(read) == 0
    rest = ids_of(batches if moment == "inside a loop" else loader)
    assert (rest == expected(loader, epoch)[done:]).all()  # the parent's threads are unharmed
    loader.close()


def test_a_forked_child_refuses_what_would_hang_there(dataset, tmp_path):
    loader = Loader(dataset.repository, UniformOrder(dataset.train_ids, 1), LoaderOptions(BATCH, memory=6000))
    in_memory = make_dataset(tmp_path / "memory", 200, ObjectStore.open("memory://"))
    publish(in_memory, 0, seed=1)
    other = Loader(in_memory.repository, UniformOrder(in_memory.train_ids, 1), LoaderOptions(BATCH, memory=6000))

    def refused():
        for use in (loader.refresh, loader.warm, lambda: next(iter(other))):
            with pytest.raises(ConfigError, match=r"opened before its process forked.* spawn or forkserver"):
                use()
        return 0

    assert in_child(refused) == 0


def test_a_process_that_leaves_a_loop_unfinished_ends(dataset):
    code = (
        "import sys, foreshard\n"
        "repository = foreshard.Repository(foreshard.ObjectStore.open(sys.argv[1]), 'demo')\n"
        "splits = repository.load_splits(repository.open().header.fingerprint)\n"
        "order = foreshard.UniformOrder((splits == 0).nonzero()[0], seed=1)\n"
        "batches = iter(foreshard.Loader(repository, order, foreshard.LoaderOptions(16, memory=6000)))\n"
        "next(batches)\n"
    )
    command = [sys.executable, "-c", code, dataset.repository.store.url]
    assert subprocess.run(command, timeout=60, check=False).returncode == 0
