"""A loader that moves to a newer layout in the middle of an epoch: same order, right values, a whole report and log."""

import itertools

import numpy as np
import pytest
from layouts import make_dataset, publish
from serving import CountingStore, threads

from foreshard.access.history import sample_counts
from foreshard.access.ingest import ingest, require_complete
from foreshard.access.markers import register_run
from foreshard.errors import BudgetError, ConfigError
from foreshard.loader.dealing import Place
from foreshard.loader.epochs import mark_epoch
from foreshard.loader.loader import Loader
from foreshard.loader.options import LoaderOptions, Logging
from foreshard.loader.order import UniformOrder, WeightedOrder
from foreshard.shards.repository import Repository

BATCH = 32


@pytest.fixture
def dataset(tmp_path):
    data = make_dataset(tmp_path, 500)
    publish(data, 0, seed=1)
    return data


def open_loader(dataset, order=None, **options):
    order = order or UniformOrder(dataset.train_ids, 5)
    return Loader(dataset.repository, order, LoaderOptions(BATCH, memory=8000, **options))


def check(batch):
    assert batch["value"].tolist() == (batch.sample_ids * 10).tolist()
    return batch.sample_ids


@pytest.mark.parametrize("after", [1, 5, 11, 12])
def test_the_order_goes_on_in_the_new_layout(dataset, after):
    loader = open_loader(dataset)
    seen, layouts = [], []
    for done, batch in enumerate(loader, 1):
        seen.append(check(batch))
        layouts.append(loader.layout)
        if done == after:
            new = publish(dataset, 1, seed=2)
            assert loader.refresh()
            assert not loader.refresh()
            assert loader.layout == new.ref
    seen += [check(batch) for batch in loader]
    want = np.concatenate([loader.order.ids(epoch, 0, 384) for epoch in (1, 2)])
    assert (np.concatenate(seen) == want).all()
    assert len(set(layouts)) == (2 if after < 12 else 1)
    loader.close()
    assert not threads()


def test_every_rank_may_move_at_its_own_step(dataset):
    order = UniformOrder(dataset.train_ids, 5)
    loaders = [open_loader(dataset, order, place=Place(rank, 3)) for rank in range(3)]
    publish(dataset, 1, seed=2)
    whole = np.full(384, -1)
    for rank, loader in enumerate(loaders):
        for batch in loader:
            whole[batch.step * BATCH + batch.positions] = check(batch)
            if batch.step == 2 * rank:
                assert loader.refresh()
        loader.close()
    assert (whole == order.ids(1, 0, 384)).all()


def test_a_loop_left_after_a_move_goes_on_there(dataset):
    loader = open_loader(dataset)
    head = [check(batch) for batch in itertools.islice(loader, 3)]
    publish(dataset, 1, seed=2)
    for batch in loader:
        head.append(check(batch))
        loader.refresh()
        break
    tail = [check(batch) for batch in loader]
    assert (np.concatenate(head + tail) == loader.order.ids(1, 0, 384)).all()
    assert loader.last_epoch.layout == loader.layout
    loader.close()


def test_the_report_counts_the_whole_epoch(dataset):
    store = CountingStore(dataset.repository.store)
    loader = Loader(Repository(store, "demo"), UniformOrder(dataset.train_ids, 5), LoaderOptions(BATCH, memory=8000))
    for done, _ in enumerate(loader):
        if done == 5:
            publish(dataset, 1, seed=2)
            loader.refresh()
            moved_at = store.served  # nothing of the old layout is on its way any more
    stats = loader.last_epoch.stats
    assert (stats.steps, stats.samples) == (12, 384)
    assert stats.hits <= stats.min_hits <= stats.touches
    assert store.served - moved_at < stats.origin_bytes <= store.served, "what both layouts were read for"
    assert stats.peak_bytes <= loader.memory
    loader.close()


def test_the_log_speaks_of_the_new_layout_alone(dataset):
    register_run(dataset.repository.store, dataset.repository.keys, "demo", info={})
    settings = Logging("demo", "first", phases=4)
    order = WeightedOrder(dataset.train_ids, 5, draws=384)
    loader = open_loader(dataset, order, logging=settings)
    drawn = []
    for done, batch in enumerate(loader):
        drawn.append(batch.sample_ids)
        if done == 5:
            new = publish(dataset, 1, seed=2)
            loader.refresh()
    marker = mark_epoch(dataset.repository, settings, [loader.last_epoch])
    loader.close()
    assert marker.generation == new.ref.generation
    found = ingest(dataset.repository.store, dataset.repository.keys, "demo", range(1, 2))
    assert found.problems == ()
    require_complete(found)
    counts = sample_counts(found.samples, len(dataset.splits), [1])[0]
    assert (counts == np.bincount(np.concatenate(drawn), minlength=len(dataset.splits))).all()
    steps, chunks = (found.events.column(name).to_numpy() for name in ("step", "chunk"))
    for step, ids in enumerate(drawn):
        assert (chunks[steps == step] == np.unique(new.chunk_of[ids])).all()
    assert set(found.events.column("generation").to_pylist()) == {new.ref.generation}


def test_dealing_by_owner_moves_between_epochs_only(dataset):
    loader = open_loader(dataset, dealing="owner", place=Place(0, 3))
    seen = []
    for batch in loader:
        seen.append(check(batch))
        if batch.step == 3:
            publish(dataset, 1, seed=2)
            with pytest.raises(ConfigError, match=r"dealt by owner.*move to .* between epochs, on every rank"):
                loader.refresh()
    assert len(seen) == 12
    assert loader.refresh()
    loader.close()


def test_a_layout_that_cannot_be_read_disturbs_no_loop(dataset):
    memory = 2 * int(dataset.repository.open().nbytes.max())
    loader = Loader(dataset.repository, UniformOrder(dataset.train_ids, 5), LoaderOptions(BATCH, memory=memory))
    old, seen = loader.layout, []
    for batch in loader:
        seen.append(check(batch))
        if batch.step == 3:
            publish(dataset, 4, seed=2, chunk_rows=300)
            with pytest.raises(BudgetError):
                loader.refresh()
    assert loader.layout == old
    assert (np.concatenate(seen) == loader.order.ids(1, 0, 384)).all()
    loader.close()
