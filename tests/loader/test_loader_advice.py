"""What the policy of a prefetch manifest changes in a loader: how much is fetched ahead, and what stays."""

import numpy as np
import pytest
from layouts import advise, make_dataset, publish

from foreshard.loader.loader import Loader
from foreshard.loader.options import LoaderOptions
from foreshard.loader.orders.listed import ListedOrder
from foreshard.prefetch.manifest import PIN_ALL, Advice, build_prefetch, read_prefetch, write_prefetch


@pytest.fixture
def data(tmp_path):
    dataset = make_dataset(tmp_path, 600)
    publish(dataset, 0, seed=1)
    return dataset


def open_loader(data):
    return Loader(
        data.repository, ListedOrder(lambda _: data.train_ids), LoaderOptions(len(data.train_ids), memory=12_000)
    )


def read_epoch(loader):
    return np.concatenate([batch.sample_ids for batch in loader])


def ask(data, advice, budget=3000):
    """Warm a loader under an advice and return how many chunks it asked for."""
    manifest = data.repository.open()
    advise(data, manifest, np.where(manifest.splits == 0, 5.0, 0.0), budget, advice)
    loader = open_loader(data)
    asked = loader.warm()
    loader.close()
    return asked


def test_what_is_fetched_ahead_follows_the_pinned_share(data):
    everything, half = ask(data, PIN_ALL), ask(data, Advice("hybrid-0.5", 0.5, "drift"))
    assert everything > half > 0
    assert ask(data, Advice("pin", 1.0, "popularity")) == everything
    assert ask(data, Advice("keep", 1.0, "uniform")) == everything
    assert ask(data, Advice("s3-fifo", 0.0, "drift")) == 0


@pytest.mark.parametrize(
    ("advice", "decides"),
    [
        (Advice("pin", 1.0, "popularity"), True),
        (Advice("hybrid-0.75", 0.75, "drift"), True),
        (Advice("keep", 1.0, "uniform"), False),
        (Advice("lru", 0.0, "drift"), False),
    ],
)
def test_a_newer_forecast_changes_what_stays_over_an_epochs_end_only_where_forecasts_did_better(data, advice, decides):
    manifest = data.repository.open()
    train = np.flatnonzero(manifest.splits == 0)
    held = []
    loader = open_loader(data)
    for wanted, advised in ((train[::3], PIN_ALL), (train[1::3], advice)):
        expected = np.where(np.isin(np.arange(len(manifest)), wanted), 5.0, 0.0)
        advise(data, manifest, expected, 0, advised)  # no budget: the manifest only tells
        assert loader.warm() == 0
        assert (read_epoch(loader) == data.train_ids).all()
        held.append(set(loader._held.prefetcher.region.entries))
    loader.close()
    assert len(held[0]) > 2
    assert held[0] <= set(train[::3].tolist())
    if decides:
        assert held[1] <= set(train[1::3].tolist())
    else:
        assert held[0] <= held[1], "what is in memory stays"


def test_nodes_with_different_advice_are_read_together_and_one_doubt_is_enough(data):
    manifest = data.repository.open()
    expected = np.where(manifest.splits == 0, 5.0, 0.0)
    advise(data, manifest, expected, 3000, Advice("lru", 0.0, "drift"))
    store, keys = data.repository.store, data.repository.keys
    table = read_prefetch(store, keys, manifest.ref, manifest.header.nodes[0])
    write_prefetch(store, keys, manifest.ref, manifest.header.nodes[0], build_prefetch(manifest, table, 0, 3000))
    loader = open_loader(data)
    assert loader.warm() > 0
    assert not loader._held._advised
    loader.close()
