"""Small batches are assembled several at a time; nobody can tell, but by the time it takes."""

from contextlib import ExitStack, closing

import numpy as np
import pytest
from layouts import make_dataset, publish
from waiting import wait_until

import foreshard.loader.assembly
from foreshard.loader.job import Job
from foreshard.loader.loader import Loader
from foreshard.loader.options import LoaderOptions
from foreshard.loader.order import BlockShuffleOrder, UniformOrder

BATCH = 16


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    data = make_dataset(tmp_path_factory.mktemp("together"), 900)
    publish(data, 0, seed=1)
    return data


@pytest.fixture
def sizes(monkeypatch):
    """Numbers of batches that were assembled together."""
    seen = []

    class Counted(Job):
        def __init__(self, window, index, stop, memory):
            seen.append(stop - index)
            super().__init__(window, index, stop, memory)

    monkeypatch.setattr(foreshard.loader.assembly, "Job", Counted)
    return seen


def read(dataset, order, epochs=3, **options):
    loader = Loader(dataset.repository, order, LoaderOptions(BATCH, remainder="keep", **options))
    batches = [batch for _ in range(epochs) for batch in loader]
    stats = loader.last_epoch.stats
    loader.close()
    return batches, stats


@pytest.mark.parametrize("order", [UniformOrder, BlockShuffleOrder])
@pytest.mark.parametrize("memory", [8_000, 1_000_000])
def test_batches_and_figures_are_those_of_batches_made_one_by_one(dataset, sizes, order, memory, monkeypatch):
    order = order(dataset.train_ids, 5)
    with monkeypatch.context() as patch:
        patch.setattr(foreshard.loader.assembly, "_TOGETHER", 1)
        single, by_one = read(dataset, order, memory=memory)
    assert set(sizes) == {1}
    sizes.clear()
    several, together = read(dataset, order, memory=memory)
    assert (max(sizes) > 1) == (memory == 1_000_000)
    assert sum(sizes) == len(several) == len(single)
    for a, b in zip(single, several, strict=True):
        assert (a.epoch, a.step) == (b.epoch, b.step)
        assert np.array_equal(a.sample_ids, b.sample_ids)
        assert np.array_equal(a.positions, b.positions)
        assert a.rows.equals(b.rows)
        assert (b["value"] == b.sample_ids * 10).all()
    assert (together.touches, together.steps, together.samples) == (by_one.touches, by_one.steps, by_one.samples)
    if memory == 1_000_000:
        assert together.hits == by_one.hits == by_one.touches


@pytest.fixture
def again(dataset):
    """A function that begins an epoch of a loader that has all chunks in memory, and returns both, to be closed."""
    with ExitStack() as stack:

        def begin(queue_batches, transform=None):
            options = LoaderOptions(BATCH, memory=1_000_000, queue_batches=queue_batches)
            order = UniformOrder(dataset.train_ids, 5)
            loader = stack.enter_context(closing(Loader(dataset.repository, order, options, transform=transform)))
            assert sum(1 for _ in loader) > 40
            return loader, iter(loader)

        yield begin


@pytest.mark.parametrize(("small", "transform"), [(100, None), (1 << 20, lambda batch: batch)])
def test_no_more_large_or_transformed_batches_wait_than_were_asked_for(again, sizes, monkeypatch, small, transform):
    monkeypatch.setattr(foreshard.loader.assembly, "_TOGETHER", small)
    loader, batches = again(6, transform)
    ready = []
    next(batches)
    assembler = loader._loop.assembler
    for _ in range(30):
        wait_until(lambda: len(assembler._ready) > 3 or not assembler._thread.is_alive())
        ready.append(len(assembler._ready))
        next(batches)
    assert max(ready) <= 6
    assert max(sizes) == (3 if transform else 1)


def test_more_small_batches_wait_than_were_asked_for_but_in_few_bytes(again, sizes, monkeypatch):
    monkeypatch.setattr(foreshard.loader.assembly, "_TOGETHER", 10_000)
    loader, batches = again(2)
    sizes.clear()
    first = next(batches).rows.nbytes
    assembler = loader._loop.assembler
    wait_until(lambda: len(assembler._ready) > 4)
    assert sum(made.batch.rows.nbytes for made in list(assembler._ready)) < 2 * 10_000 + first
    assert max(sizes) > 2


def test_large_batches_are_made_one_by_one(dataset, sizes, monkeypatch):
    monkeypatch.setattr(foreshard.loader.assembly, "_TOGETHER", 100)
    read(dataset, UniformOrder(dataset.train_ids, 5), epochs=1, memory=1_000_000)
    assert set(sizes) == {1}
