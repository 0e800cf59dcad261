"""What a loader reports is true: hits within MIN's, bytes as the store served them, memory within its budget."""

import numpy as np
import pytest
from layouts import advise, make_dataset, publish
from serving import CountingStore
from waiting import wait_until

from foreshard.errors import BudgetError, ConfigError
from foreshard.loader.dealing import Place
from foreshard.loader.described import LoaderDescription
from foreshard.loader.loader import Loader
from foreshard.loader.options import LoaderOptions
from foreshard.loader.order import ListedOrder, SequentialOrder, UniformOrder, WeightedOrder
from foreshard.prefetch.manifest import read_prefetch
from foreshard.prefetch.monitor import EpochStats
from foreshard.shards.repository import Repository
from foreshard.storage import ObjectStore


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    data = make_dataset(tmp_path_factory.mktemp("figures"), 800)
    publish(data, 0, seed=1)
    return data


def through(dataset):
    """The same repository, its store counting what it serves."""
    store = CountingStore(dataset.repository.store)
    return Repository(store, "demo"), store


def read(loader):
    return np.concatenate([batch.sample_ids for batch in loader])


def skewed(dataset, draws=600):
    order = WeightedOrder(dataset.train_ids, 3, draws=draws)
    order.update_weights(dataset.train_ids, 1.0 / (1 + np.arange(len(dataset.train_ids))) ** 1.2)
    return order


@pytest.mark.parametrize("memory", [4000, 8000, 40_000])
@pytest.mark.parametrize("dealing", ["position", "owner"])
def test_figures_stay_within_their_bounds(dataset, memory, dealing):
    repository, store = through(dataset)
    options = LoaderOptions(32, place=Place(1, 2), dealing=dealing, memory=memory, max_concurrency=3)
    loader = Loader(repository, skewed(dataset), options)
    for epoch in (1, 2, 3):
        before = store.served
        delivered = len(read(loader))
        stats = loader.last_epoch.stats
        assert stats.epoch == epoch
        assert stats.samples == delivered
        assert stats.steps == loader.last_epoch.steps == 600 // 32
        assert 0 <= stats.ready_rate <= 1
        assert 0 <= stats.prefetch_accuracy <= 1
        assert 0 <= stats.residency_hit_rate <= 1
        assert stats.hits <= stats.min_hits <= stats.touches
        assert 0 < stats.fraction_of_min <= 1
        assert stats.prefetched_used_bytes <= stats.prefetched_bytes
        assert stats.origin_bytes == store.served - before
        assert stats.demand_requests <= stats.origin_requests <= stats.touches
        assert stats.failed_requests == 0
        assert loader.manifest.nbytes.max() < stats.peak_bytes <= loader.memory == memory
        assert stats.plan_s > 0
    loader.close()


def test_what_fits_in_memory_is_read_once(dataset):
    repository, store = through(dataset)
    manifest = repository.open()
    train = manifest.nbytes[manifest.splits == 0]
    loader = Loader(repository, skewed(dataset), LoaderOptions(32, memory=int(train.sum() * 2)))
    read(loader)
    stats = loader.last_epoch.stats
    read_once = np.unique(manifest.chunk_of[loader.order.ids(1, 0, 576)])
    assert stats.origin_bytes == store.served == manifest.nbytes[read_once].sum()
    assert stats.touches - stats.hits == len(read_once)
    assert stats.fraction_of_min == 1
    loader.close()


def test_a_budget_below_two_chunks_fails_at_construction_naming_the_bytes(dataset):
    manifest = dataset.repository.open()
    largest = int(manifest.nbytes[manifest.splits == 0].max())
    order = UniformOrder(dataset.train_ids, 1)
    with pytest.raises(
        BudgetError,
        match=rf"budget of {2 * largest - 1} bytes is below the {2 * largest} bytes.*Give LoaderOptions\(memory",
    ):
        Loader(dataset.repository, order, LoaderOptions(8, memory=2 * largest - 1))
    loader = Loader(dataset.repository, order, LoaderOptions(8, memory=2 * largest))
    assert sorted(read(loader)) == sorted(order.ids(1, 0, len(dataset.train_ids) // 8 * 8))
    assert loader.last_epoch.stats.peak_bytes <= 2 * largest
    loader.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_small_split_is_read_by_default_whatever_share_of_it_a_worker_has(dataset, workers):
    manifest, order = dataset.repository.open(), UniformOrder(dataset.train_ids, 1)
    largest = int(manifest.nbytes[manifest.splits == 0].max())
    about = LoaderDescription(dataset.repository, order, LoaderOptions(8, cache_fraction=1e-3), "train", None)
    loader = about.open(Place(workers=workers))
    assert loader.memory == 4 * largest
    next(iter(loader))
    loader.close()


def test_a_workers_share_that_is_too_small_names_what_the_user_gave_and_would_do(dataset):
    manifest, order = dataset.repository.open(), UniformOrder(dataset.train_ids, 1)
    largest = int(manifest.nbytes[manifest.splits == 0].max())
    about = LoaderDescription(dataset.repository, order, LoaderOptions(8, memory=4 * largest), "train", None)
    message = rf"LoaderOptions\(memory=...\), which data_loader divides by its 3 workers, at least {6 * largest},"
    with pytest.raises(BudgetError, match=message):
        about.open(Place(workers=3))
    about.open(Place(workers=2)).close()


def test_the_default_budget_is_a_share_of_what_the_ranks_nodes_hold(dataset):
    manifest, order = dataset.repository.open(), UniformOrder(dataset.train_ids, 1)
    train = manifest.splits == 0
    for place, nodes in ((Place(0, 1), [0, 1, 2]), (Place(1, 2), [1]), (Place(4, 5), [1])):
        loader = Loader(dataset.repository, order, LoaderOptions(8, place=place, cache_fraction=0.9))
        assert loader.memory == int(manifest.nbytes[train & np.isin(manifest.nodes, nodes)].sum() * 0.9)


def expected_draws(manifest, hot):
    """Expect many draws of the chunks that hold these samples, and few of the others of the train split."""
    expected = np.where(manifest.splits == 0, 0.01, 0.0)
    expected[np.unique(manifest.chunk_of[hot])] = 50.0
    return expected


def test_refresh_moves_to_a_newer_layout_and_warms_what_its_prefetch_manifest_pins(tmp_path):
    data = make_dataset(tmp_path, 600)
    publish(data, 0, seed=1)
    repository, store = through(data)
    hot = data.train_ids[:5]
    order = WeightedOrder(data.train_ids, 3, draws=400)
    order.update_weights(data.train_ids, np.where(np.isin(data.train_ids, hot), 100.0, 0.01))
    loader = Loader(repository, order, LoaderOptions(16, memory=12_000))
    assert loader.warm() == 0  # no prefetch manifest yet
    assert not loader.refresh()
    first = read(loader)
    new = publish(data, 4, seed=2)
    advise(data, new, expected_draws(new, hot), 3000)
    before = store.served
    assert loader.refresh()
    assert loader.layout == new.ref
    pinned = np.concatenate(
        [
            table.column("chunk").to_numpy()[table.column("pinned").to_numpy()]
            for name in new.header.nodes
            for table in [read_prefetch(data.repository.store, data.repository.keys, new.ref, name)]
        ]
    )
    assert set(np.unique(new.chunk_of[hot])) <= set(pinned)
    wait_until(lambda: store.served - before >= new.nbytes[pinned].sum())
    second = read(loader)
    stats = loader.last_epoch.stats
    assert (first == order.ids(1, 0, 400)).all()
    assert (second == order.ids(2, 0, 400)).all()
    assert stats.forecast_used_bytes > 0
    assert stats.forecast_used_bytes <= stats.forecast_bytes <= new.nbytes[pinned].sum()
    assert stats.prefetch_accuracy <= 1
    assert loader.last_epoch.layout == new.ref
    loader.close()


def test_a_forecast_decides_what_stays_over_the_end_of_an_epoch_whose_successor_is_not_known(tmp_path):
    data = make_dataset(tmp_path, 600)
    manifest = publish(data, 0, seed=1)
    order = ListedOrder(lambda _: data.train_ids)
    train = np.flatnonzero(manifest.splits == 0)
    expected = np.isin(np.arange(len(manifest)), train[::3])
    stayed, hits = {}, {}
    for name in ("without", "with"):
        repository, _ = through(data)
        loader = Loader(repository, order, LoaderOptions(len(data.train_ids), memory=12_000))
        if name == "with":
            advise(data, manifest, np.where(expected, 5.0, 0.0), 0)  # pins nothing: only tells
            assert loader.warm() == 0
        read(loader)
        stayed[name] = set(loader._held.prefetcher.region.entries)
        read(loader)  # one step an epoch: every hit is of the epoch before
        hits[name] = loader.last_epoch.stats.hits
        loader.close()
    assert stayed["with"] <= set(np.flatnonzero(expected).tolist())
    assert not stayed["without"] <= set(np.flatnonzero(expected).tolist())
    assert hits["with"] >= 3  # how many depends on which reads were quicker
    assert hits["without"] >= 3, "without a forecast, what is in memory stays"


def test_an_unused_forecast_counts_in_the_epoch_that_decides(tmp_path):
    data = make_dataset(tmp_path, 400)
    manifest = publish(data, 0, seed=1)
    advise(data, manifest, np.where(manifest.splits == 0, 5.0, 0.0), 100_000)
    order = WeightedOrder(data.train_ids, 1, draws=64)
    order.update_weights(data.train_ids, np.where(np.arange(len(data.train_ids)) == 0, 1.0, 0.0))
    loader = Loader(data.repository, order, LoaderOptions(16, memory=100_000))
    loader.warm()
    wait_until(lambda: len(loader._held.prefetcher.region.entries) >= (manifest.splits == 0).sum())
    read(loader)
    one = loader.last_epoch.stats
    assert (one.forecast_bytes, one.forecast_used_bytes) == (one.origin_bytes - unused(loader), one.forecast_bytes)
    order.update_weights(data.train_ids, np.ones(len(data.train_ids)))
    read(loader)
    two = loader.last_epoch.stats
    assert two.origin_bytes == 0
    assert two.prefetched_bytes == two.prefetched_used_bytes > 0
    loader.close()


def unused(loader):
    entries = loader._held.prefetcher.region.entries.values()
    return sum(entry.nbytes for entry in entries if not entry.uses)


def test_counters_of_ranks_add_up_and_rates_follow_from_the_sums():
    parts = [EpochStats(2, steps=4, ready_steps=i, touches=8, hits=i, min_hits=4, wait_s=0.5) for i in (1, 3)]
    both = sum(parts, EpochStats(2))
    assert (both.steps, both.ready_steps, both.touches, both.hits, both.wait_s) == (8, 4, 16, 4, 1.0)
    assert both.figures()["fraction_of_min"] == 0.5
    assert both.figures()["ready_rate"] == 0.5
    assert EpochStats(1).figures()["residency_hit_rate"] == 0


def test_samples_of_another_split_or_dataset_are_refused_by_id(dataset):
    validation = np.flatnonzero(dataset.splits == 1)
    loader = Loader(dataset.repository, SequentialOrder(validation), LoaderOptions(8, memory=8000))
    with pytest.raises(ConfigError, match=rf"sample id {validation[0]} of the split 'validation', but .* 'train'"):
        next(iter(loader))
    right = Loader(dataset.repository, SequentialOrder(validation), LoaderOptions(8, memory=8000), split="validation")
    assert (read(right) == validation[: len(validation) // 8 * 8]).all()
    right.close()
    for wrong in (-1, 800):
        loader = Loader(dataset.repository, SequentialOrder(np.full(8, wrong)), LoaderOptions(8, memory=8000))
        with pytest.raises(ConfigError, match=rf"gives sample id {wrong}, but layout .* has the ids 0..799"):
            next(iter(loader))


@pytest.mark.s3
def test_the_whole_loader_on_a_real_s3_server(tmp_path, seaweedfs_location):
    store = ObjectStore.open(seaweedfs_location.url, endpoint=seaweedfs_location.endpoint)
    data = make_dataset(tmp_path, 400, store)
    manifest = publish(data, 0, seed=1)
    advise(data, manifest, np.where(manifest.splits == 0, 2.0, 0.0), 6000)
    repository, counting = through(data)
    order = UniformOrder(data.train_ids, 4)
    loader = Loader(repository, order, LoaderOptions(32, memory=20_000, max_concurrency=4, timeout=30))
    assert loader.warm() > 0
    for epoch in (1, 2):
        assert (read(loader) == order.ids(epoch, 0, len(data.train_ids) // 32 * 32)).all()
    new = publish(data, 4, seed=2)
    assert loader.refresh()
    assert loader.layout == new.ref
    served = counting.served
    assert (read(loader) == order.ids(3, 0, len(data.train_ids) // 32 * 32)).all()
    assert loader.last_epoch.stats.origin_bytes == counting.served - served
    loader.close()
