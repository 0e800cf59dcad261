"""An epoch that is planned in windows is read in the same order, from no more memory, and as well as in one."""

import numpy as np
import pytest
from layouts import make_dataset, publish
from serving import CountingStore, threads

import foreshard.loader.loops
from foreshard.loader.dealing import Place
from foreshard.loader.loader import Loader
from foreshard.loader.options import LoaderOptions
from foreshard.loader.order import BlockShuffleOrder, UniformOrder, WeightedOrder
from foreshard.shards.repository import Repository

BATCH = 16


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    data = make_dataset(tmp_path_factory.mktemp("windows"), 900)
    publish(data, 0, seed=1)
    return data


@pytest.fixture
def windows(monkeypatch):
    """Set how many samples are planned together."""

    def plan_by(samples):
        monkeypatch.setattr(foreshard.loader.loops, "WINDOW", samples)

    return plan_by


def read(loader):
    return np.concatenate([batch.sample_ids for batch in loader])


def reading(dataset, order, memory=8_000, **options):
    store = CountingStore(dataset.repository.store)
    loader = Loader(Repository(store, "demo"), order, LoaderOptions(BATCH, memory=memory, **options))
    return loader, store


@pytest.mark.parametrize("samples", [1, 64, 200])
@pytest.mark.parametrize("memory", [4_000, 8_000, 100_000])
def test_windows_change_neither_what_is_read_nor_its_values(dataset, windows, samples, memory):
    windows(samples)
    order = UniformOrder(dataset.train_ids, 5)
    loader, store = reading(dataset, order, memory, remainder="keep")
    for epoch in (1, 2, 3):
        before, seen = store.served, []
        for batch in loader:
            seen.append(batch.sample_ids)
            assert batch.rows["value"].to_numpy().tolist() == (batch.sample_ids * 10).tolist()
        stats = loader.last_epoch.stats
        assert (np.concatenate(seen) == order.ids(epoch, 0, order.length(epoch))).all()
        assert stats.origin_bytes == store.served - before
        assert stats.peak_bytes <= memory
        assert stats.hits <= stats.min_hits <= stats.touches
        assert stats.min_bytes <= stats.origin_bytes
    loader.close()
    assert not threads()


@pytest.mark.parametrize("order", [UniformOrder, BlockShuffleOrder])
def test_windows_cost_few_hits(dataset, windows, order):
    hits = {}
    for samples in (10_000, 128):
        windows(samples)
        loader, _ = reading(dataset, order(dataset.train_ids, 5), 9_000, max_concurrency=1)
        for _ in range(4):
            read(loader)
        hits[samples] = loader.last_epoch.stats.hits
        loader.close()
    assert hits[128] >= 0.9 * hits[10_000] > 0


def test_a_loop_that_is_left_in_a_later_window_goes_on_there(dataset, windows):
    windows(64)
    order = UniformOrder(dataset.train_ids, 5)
    loader, _ = reading(dataset, order)
    seen = []
    for _ in range(3):
        for batch in loader:
            seen.append(batch.sample_ids)
            if len(seen) % 13 == 12:
                break
    state = loader.state_dict()
    loader.close()
    assert not threads()
    other, _ = reading(dataset, order)
    other.load_state_dict(state)
    seen.append(read(other))
    other.close()
    assert (np.concatenate(seen) == order.ids(1, 0, len(dataset.train_ids) // BATCH * BATCH)).all()


@pytest.mark.parametrize("worker", [0, 1])
def test_workers_without_a_step_in_some_windows_read_the_others(dataset, windows, worker):
    windows(1)
    order = UniformOrder(dataset.train_ids, 5)
    loader, _ = reading(dataset, order, place=Place(worker=worker, workers=2))
    steps = [batch.step for batch in loader]
    assert steps == list(range(worker, len(dataset.train_ids) // BATCH, 2))
    loader.close()


def test_windows_that_are_planned_after_weights_have_changed_are_of_the_epochs_weights(dataset, windows):
    windows(32)
    order = WeightedOrder(dataset.train_ids, 5, draws=600)
    want = order.ids(1, 0, 600 // BATCH * BATCH)
    loader, _ = reading(dataset, order, queue_batches=1)
    batches = iter(loader)
    seen = [next(batches).sample_ids]
    order.update_weights(dataset.train_ids[:10], np.full(10, 50.0))
    seen += [batch.sample_ids for batch in batches]
    assert (np.concatenate(seen) == want).all()
    loader.close()


def test_what_the_next_epoch_reads_first_stays_over_the_end_of_an_epoch(dataset):
    order = BlockShuffleOrder(dataset.train_ids, 5, block=64, window=2)
    loader, store = reading(dataset, order, 12_000)
    read(loader)
    before = store.served
    read(loader)
    stats = loader.last_epoch.stats
    assert stats.hits > 0
    assert stats.origin_bytes == store.served - before
    assert stats.fraction_of_min >= 0.7, "most of what MIN would have kept over the end was kept"
    loader.close()


def test_what_was_computed_of_past_epochs_is_forgotten(dataset):
    loader, _ = reading(dataset, UniformOrder(dataset.train_ids, 5))
    for _ in range(4):
        read(loader)
    schedules = loader._held.schedules
    read(loader)
    assert min(epoch for epoch, _ in schedules._found) == 5
    assert schedules._held == sum(map(len, schedules._found.values()))
    loader.close()


def test_whoever_changes_a_batchs_ids_changes_nothing_else(dataset):
    order = UniformOrder(dataset.train_ids, 5)
    loader, _ = reading(dataset, order)
    start = loader.state_dict()
    for batch in loader:
        batch.sample_ids[:] = -1
        batch.positions[:] = -1
    loader.load_state_dict(start)
    assert (read(loader) == order.ids(1, 0, len(dataset.train_ids) // BATCH * BATCH)).all()
    loader.close()
