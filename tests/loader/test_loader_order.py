"""DESIGN.md §2.1: what a run sees never depends on where the bytes lie, who reads them, or where it was resumed."""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layouts import make_dataset, publish

from foreshard.loader.dealing import Place, epoch_steps
from foreshard.loader.loader import Loader
from foreshard.loader.options import LoaderOptions
from foreshard.loader.order import BlockShuffleOrder, SequentialOrder, UniformOrder, WeightedOrder

BATCH = 24


def orders(ids):
    weighted = WeightedOrder(ids, 5, draws=200, first_pass=UniformOrder(ids, 5))
    weighted.update_weights(ids, np.linspace(0.1, 3, len(ids)))
    return [
        UniformOrder(ids, 3),
        BlockShuffleOrder(ids, 3, block=16, window=3),
        SequentialOrder(ids),
        weighted,
    ]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    data = make_dataset(tmp_path_factory.mktemp("order"), 500)
    publish(data, 0, seed=1)
    publish(data, 4, seed=2, chunk_rows=17)
    return data


def layouts(dataset):
    return [dataset.repository.layouts(f"demo.e{epoch:06d}")[0] for epoch in (0, 4)]


def loaders(dataset, order, layout, *, world, workers, dealing, remainder):
    return [
        Loader(
            dataset.repository,
            order,
            LoaderOptions(
                BATCH,
                place=Place(rank, world, worker, workers),
                dealing=dealing,
                remainder=remainder,
                memory=8000,
                timeout=20,
            ),
            layout=layout,
        )
        for rank, worker in itertools.product(range(world), range(workers))
    ]


def expected(order, epoch, remainder):
    length = order.length(epoch)
    steps = epoch_steps(length, BATCH, remainder)
    ids = order.ids(epoch, 0, min(steps * BATCH, length))
    if remainder == "pad":
        ids = np.concatenate([ids, order.ids(epoch, 0, steps * BATCH - len(ids))])
    return ids


def seen(readers, *, stop_after=None):
    """Read an epoch (or its first steps) with all readers and put the global batches together by position."""
    steps = {}
    for reader in readers:
        for batch in reader:
            assert (batch["sample_id"] == batch.sample_ids).all()
            assert (batch["value"] == batch.sample_ids * 10).all()
            assert list(batch["text"]) == [f"row {i}" for i in batch.sample_ids]
            steps.setdefault(batch.step, []).append(batch)
            if stop_after is not None and batch.step + 1 >= stop_after:
                break
    joined = []
    for step in sorted(steps):
        ids = np.concatenate([b.sample_ids for b in steps[step]])
        joined.append(ids[np.argsort(np.concatenate([b.positions for b in steps[step]]), kind="stable")])
    return np.concatenate(joined) if joined else np.empty(0, np.int64)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    which=st.integers(0, 3),
    world=st.integers(1, 5),
    workers=st.integers(1, 3),
    dealing=st.sampled_from(["position", "owner"]),
    remainder=st.sampled_from(["drop", "keep", "pad"]),
    second=st.booleans(),
    epoch=st.integers(1, 3),
)
def test_every_world_size_worker_count_and_layout_gives_one_order(
    dataset, which, world, workers, dealing, remainder, second, epoch
):
    order = orders(dataset.train_ids)[which]
    readers = loaders(
        dataset, order, layouts(dataset)[second], world=world, workers=workers, dealing=dealing, remainder=remainder
    )
    for reader in readers:
        reader.set_epoch(epoch)
    assert (seen(readers) == expected(order, epoch, remainder)).all()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    which=st.integers(0, 3),
    step=st.integers(1, 7),
    world=st.integers(1, 4),
    dealing=st.sampled_from(["position", "owner"]),
)
def test_resuming_at_any_step_on_another_layout_and_world_size_continues_the_order(
    dataset, which, step, world, dealing
):
    order = orders(dataset.train_ids)[which]
    first, second = layouts(dataset)
    [before] = loaders(dataset, order, first, world=1, workers=1, dealing="position", remainder="keep")
    head = seen([before], stop_after=step)
    state = before.state_dict()
    before.close()
    after = loaders(dataset, order, second, world=world, workers=1, dealing=dealing, remainder="keep")
    for reader in after:
        reader.load_state_dict(state)
    tail = seen(after)
    assert (np.concatenate([head, tail]) == expected(order, 1, "keep")).all()


def test_a_reshard_between_epochs_keeps_the_order_and_the_rows(dataset):
    order = UniformOrder(dataset.train_ids, 9)
    first, second = layouts(dataset)
    readers = loaders(dataset, order, first, world=3, workers=1, dealing="owner", remainder="drop")
    one = seen(readers)
    assert [reader.refresh(second) for reader in readers] == [True] * 3
    two = seen(readers)
    assert (one == expected(order, 1, "drop")).all()
    assert (two == expected(order, 2, "drop")).all()
    assert readers[0].layout == second
    for reader in readers:
        reader.close()


def test_an_abandoned_epoch_continues_where_the_consumer_stopped(dataset):
    order = UniformOrder(dataset.train_ids, 9)
    [reader] = loaders(dataset, order, layouts(dataset)[0], world=1, workers=1, dealing="position", remainder="drop")
    head = seen([reader], stop_after=3)
    tail = seen([reader])
    assert (np.concatenate([head, tail]) == expected(order, 1, "drop")).all()
    reader.close()
