"""What a loader reports reaches the control loop whole: logs, markers, ingestion."""

import numpy as np
import pytest
from layouts import make_dataset, publish

from foreshard.access.history import sample_counts
from foreshard.access.ingest import ingest, require_complete
from foreshard.access.markers import list_markers, register_run
from foreshard.errors import LogError
from foreshard.loader.dealing import Place
from foreshard.loader.epochs import mark_epoch
from foreshard.loader.loader import Loader
from foreshard.loader.options import LoaderOptions, Logging
from foreshard.loader.order import UniformOrder, WeightedOrder

WORLD, BATCH, DRAWS = 3, 32, 320


@pytest.fixture
def dataset(tmp_path):
    data = make_dataset(tmp_path, 500)
    publish(data, 0, seed=1)
    return data


def ranks(dataset, order, write_id="first", *, logging=True):
    settings = Logging("demo", write_id, phases=4)
    loaders = [
        Loader(
            dataset.repository,
            order,
            LoaderOptions(
                BATCH,
                place=Place(rank, WORLD),
                dealing="owner",
                memory=8000,
                logging=settings if logging else None,
            ),
        )
        for rank in range(WORLD)
    ]
    return loaders, settings


def train(loaders):
    for _ in zip(*loaders, strict=False):  # leaves the last rank's iterator unfinished
        pass
    return [loader.last_epoch for loader in loaders]


def close(loaders):
    for loader in loaders:
        loader.close()


def read_back(dataset, epochs):
    found = ingest(dataset.repository.store, dataset.repository.keys, "demo", epochs)
    assert found.problems == ()
    require_complete(found)
    return found


def test_access_logs_come_back_whole_with_the_orders_own_counts(dataset):
    register_run(dataset.repository.store, dataset.repository.keys, "demo", info={})
    order = WeightedOrder(dataset.train_ids, 5, draws=DRAWS, first_pass=UniformOrder(dataset.train_ids, 5))
    loaders, settings = ranks(dataset, order)
    drawn, touches, hits = [], 0, 0
    for epoch in (1, 2, 3):
        drawn.append(order.ids(epoch, 0, order.length(epoch) // BATCH * BATCH))
        reports = train(loaders)
        marker = mark_epoch(dataset.repository, settings, reports)
        assert (marker.epoch, marker.world_size, marker.draws) == (epoch, WORLD, len(drawn[-1]))
        touches += sum(report.stats.touches for report in reports)
        hits += sum(report.stats.hits for report in reports)
        weights = np.ones(len(dataset.train_ids))
        weights[: 10 * epoch] = 20.0
        order.update_weights(dataset.train_ids, weights)
    close(loaders)
    found = read_back(dataset, range(1, 4))
    counts = sample_counts(found.samples, len(dataset.splits), [1, 2, 3])
    for ids, row in zip(drawn, counts, strict=True):
        assert (row == np.bincount(ids, minlength=len(dataset.splits))).all()
    assert found.events.num_rows == touches
    assert sum(found.events.column("hit").to_pylist()) == hits
    manifest = dataset.repository.open()
    chunks = found.events.column("chunk").to_numpy()
    assert (found.events.column("bytes").to_numpy() == manifest.nbytes[chunks]).all()
    assert (manifest.splits[chunks] == 0).all()
    assert (manifest.nodes[chunks] == found.events.column("rank").to_numpy()).all()


def test_an_epoch_that_was_left_and_continued_is_logged_whole(dataset):
    loaders, settings = ranks(dataset, UniformOrder(dataset.train_ids, 5))
    for _, _ in zip(loaders[0], range(4), strict=False):
        pass
    mark_epoch(dataset.repository, settings, train_rest(loaders))
    close(loaders)
    found = read_back(dataset, range(1, 2))
    counts = sample_counts(found.samples, len(dataset.splits), [1])
    assert counts.sum() == len(dataset.train_ids) // BATCH * BATCH


def train_rest(loaders):
    for loader in loaders:
        list(loader)
    return [loader.last_epoch for loader in loaders]


def test_marking_an_epoch_twice_changes_nothing(dataset):
    order = UniformOrder(dataset.train_ids, 5)
    first, settings = ranks(dataset, order)
    reports = train(first)
    marker = mark_epoch(dataset.repository, settings, reports)
    store, keys = dataset.repository.store, dataset.repository.keys
    before = {meta.key: store.get(meta.key) for meta in store.list("demo/runs")}
    assert len(before) == 1 + 2 * WORLD
    assert mark_epoch(dataset.repository, settings, reports) == marker
    assert {meta.key: store.get(meta.key) for meta in store.list("demo/runs")} == before
    second, later = ranks(dataset, order, "second")
    assert mark_epoch(dataset.repository, later, train(second)) == marker
    assert list_markers(store, keys, "demo") == [marker]
    assert {meta.key: store.get(meta.key) for meta in store.list("demo/runs")} == before
    read_back(dataset, range(1, 2))
    close(first + second)


def test_incomplete_reports_are_refused(dataset):
    order = UniformOrder(dataset.train_ids, 5)
    loaders, settings = ranks(dataset, order)
    one = train(loaders)
    two = train(loaders)
    silent, _ = ranks(dataset, order, logging=False)
    for reports, message in [
        ([], "without reports"),
        (one[:2], r"the reports of ranks \[0, 1\] are not those of all 3 ranks"),
        (one[1:], r"ranks \[1, 2\]"),
        ([*one[:2], two[2]], "of one epoch and layout"),
        (train(silent), "kept no access log"),
    ]:
        with pytest.raises(LogError, match=message):
            mark_epoch(dataset.repository, settings, reports)
    assert list_markers(dataset.repository.store, dataset.repository.keys, "demo") == []
    close(loaders + silent)
