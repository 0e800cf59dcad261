"""What ranks and workers are dealt: for every (world, workers) up to 8 x 4 one order, resumed at every step."""

import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layouts import make_dataset, publish

from foreshard.loader.dealing import Place, epoch_steps
from foreshard.loader.options import LoaderOptions
from foreshard.loader.order import (
    BlockShuffleOrder,
    ListedOrder,
    MixtureOrder,
    SequentialOrder,
    UniformOrder,
    WeightedOrder,
)
from foreshard.loader.scheduling import EpochSchedule

BATCH = 20
EPOCHS = (1, 2, 3)
PAIRS = list(itertools.product(range(1, 9), range(1, 5)))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    data = make_dataset(tmp_path_factory.mktemp("elastic"), 150)
    publish(data, 0, seed=1, chunk_rows=9)
    publish(data, 3, seed=2, chunk_rows=30)
    return data


@pytest.fixture(scope="module")
def manifests(dataset):
    refs = [dataset.repository.layouts(f"demo.e{epoch:06d}")[0] for epoch in (0, 3)]
    return [dataset.repository.open(ref) for ref in refs]


def build(kind, ids):
    weights = 1.0 + np.arange(len(ids)) % 5
    drawing = WeightedOrder(ids, 5, draws=107, first_pass=UniformOrder(ids, 5))
    once = WeightedOrder(ids, 5, draws=71, replacement=False)
    for order in (drawing, once):
        order.update_weights(ids, weights)
    return {
        "uniform": UniformOrder(ids, 3),
        "block_shuffle": BlockShuffleOrder(ids, 3, block=8, window=3),
        "sequential": SequentialOrder(ids),
        "weighted": drawing,
        "weighted_once": once,
        "listed": ListedOrder(lambda epoch: ids[epoch * 5 :][::-1]),
        "mixture": MixtureOrder([UniformOrder(ids[:40], 1), once], [2, 1], length=97),
    }[kind]


def expected(order, epoch, remainder):
    length = order.length(epoch)
    steps = epoch_steps(length, BATCH, remainder)
    ids = order.ids(epoch, 0, min(steps * BATCH, length))
    if remainder == "pad":
        ids = np.concatenate([ids, order.ids(epoch, 0, steps * BATCH - len(ids))])
    return ids


def dealt(order, manifest, epoch, first, world, workers, dealing, remainder):
    """Return what all readers are dealt from a step on, put together by place, and the steps of each rank."""
    places, ids, steps = [], [], {rank: [] for rank in range(world)}
    for rank, worker in itertools.product(range(world), range(workers)):
        options = LoaderOptions(BATCH, place=Place(rank, world, worker, workers), dealing=dealing, remainder=remainder)
        schedule = EpochSchedule(order, manifest, options, split=0, epoch=epoch)
        touches = schedule.touches(first, schedule.steps)
        assert (touches.steps % workers == worker).all()
        steps[rank] += touches.steps.tolist()
        of = np.repeat(touches.steps.astype(np.int64), np.diff(touches.batch_offsets))
        places.append(of * BATCH + touches.positions)
        ids.append(touches.sample_ids)
        if dealing == "position":
            sizes, short = np.diff(touches.batch_offsets), order.length(epoch) % BATCH
            whole = np.where((touches.steps == order.length(epoch) // BATCH) & (remainder == "keep"), short, BATCH)
            assert (np.abs(sizes - whole / world) < 1).all()
    together = np.concatenate(places)
    assert (np.sort(together) == np.arange(first * BATCH, first * BATCH + len(together))).all()
    return np.concatenate(ids)[np.argsort(together)], steps


@pytest.mark.parametrize(("world", "workers"), PAIRS)
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["uniform", "block_shuffle", "sequential", "weighted", "weighted_once", "listed", "mixture"]),
    dealing=st.sampled_from(["position", "owner"]),
    remainder=st.sampled_from(["drop", "keep", "pad"]),
    layout=st.integers(0, 1),
)
def test_every_world_and_worker_count_gives_one_order_from_every_step(
    dataset, manifests, world, workers, kind, dealing, remainder, layout
):
    order = build(kind, dataset.train_ids)
    for epoch in EPOCHS:
        whole = expected(order, epoch, remainder)
        steps = epoch_steps(order.length(epoch), BATCH, remainder)
        for first in range(steps):
            manifest = manifests[(first + layout) % 2]  # a re-shard between any two steps
            ids, of_rank = dealt(order, manifest, epoch, first, world, workers, dealing, remainder)
            assert (ids == whole[first * BATCH :]).all()
            # Every rank has each step once, however few samples it holds of it: the counts are equal by arithmetic.
            assert all(sorted(each) == list(range(first, steps)) for each in of_rank.values())


def test_one_order_hash_for_all_worlds_workers_layouts_and_dealings(dataset, manifests):
    order = build("mixture", dataset.train_ids)
    found = {hashlib.sha256(np.concatenate([expected(order, epoch, "keep") for epoch in EPOCHS])).hexdigest()}
    readings = list(zip(manifests, ("position", "owner"), strict=True))
    for (world, workers), (manifest, dealing) in itertools.product(PAIRS, readings):
        digest = hashlib.sha256()
        for epoch in EPOCHS:
            digest.update(dealt(order, manifest, epoch, 0, world, workers, dealing, "keep")[0].tobytes())
        found.add(digest.hexdigest())
    assert len(found) == 1
