"""Weights that change in the middle of an epoch count from the next one on, in loops, states and workers alike."""

import json

import numpy as np
import pytest
from torch_world import OPTIONS, dataset_of, loading

from foreshard.errors import ConfigError
from foreshard.loader.loader import Loader
from foreshard.loader.order import MixtureOrder, UniformOrder, WeightedOrder
from foreshard.loader.planning import WINDOW
from foreshard.loader.torch import data_loader

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

STEPS = 8
DRAWS = 32 * STEPS
WORKERS = {
    "loader": None,
    "0": {},
    "2": {"num_workers": 2, "multiprocessing_context": "fork", "timeout": 60},
    "2 that end": {
        "num_workers": 2,
        "multiprocessing_context": "fork",
        "timeout": 60,
        "persistent_workers": False,
    },
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return dataset_of(tmp_path_factory.mktemp("epoch_order"))


def once(dataset):
    return WeightedOrder(dataset.train_ids, 5, draws=DRAWS, replacement=False)


def again(dataset):
    return WeightedOrder(dataset.train_ids, 5, draws=DRAWS)


def mixed(dataset):
    """A mixture, and the component whose weights change."""
    weighted = again(dataset)
    return MixtureOrder([UniformOrder(dataset.train_ids, 3), weighted], [1, 3], length=DRAWS), weighted


def orders(kind, dataset):
    """An order, and the one in it whose weights change."""
    made = {"once": once, "again": again, "mixed": mixed}[kind](dataset)
    return made if isinstance(made, tuple) else (made, made)


def other_weights(dataset):
    return np.linspace(1, 90, len(dataset.train_ids)) ** 2


@pytest.fixture(params=WORKERS)
def opened(dataset, request):
    """Opens loaders of an order, which are closed with the test."""
    settings, found = WORKERS[request.param], []

    def make(order):
        if settings is None:
            found.append(Loader(dataset.repository, order, OPTIONS))
        else:
            found.append(data_loader(dataset.repository, order, OPTIONS, **settings))
        return found[-1]

    yield make
    for loader in found:
        loader.close()


def ids_of(batch):
    return (batch["sample_id"] if isinstance(batch, dict) else batch.sample_ids).tolist()


def read(loader):
    return [ids_of(batch) for batch in loader]


@pytest.mark.parametrize(
    ("kind", "opened"),
    [*(("again", each) for each in WORKERS), ("once", "loader"), ("mixed", "loader"), ("mixed", "2")],
    indirect=["opened"],
)
def test_new_weights_count_from_the_next_epoch_on_however_a_loop_is_interrupted(dataset, opened, kind):
    plain, inner = orders(kind, dataset)
    reference = Loader(dataset.repository, plain, OPTIONS)
    want = [read(reference)]
    inner.update_weights(dataset.train_ids, other_weights(dataset))
    want.append(read(reference))
    reference.close()
    order, inner = orders(kind, dataset)
    loader, got = opened(order), []
    for batch in loader:
        got.append(ids_of(batch))
        if len(got) == 3:
            inner.update_weights(dataset.train_ids, other_weights(dataset))
        if len(got) == 5:
            break
    got += read(loader)
    assert [got, read(loader)] == want


def test_a_state_after_an_update_is_that_of_the_epochs_weights_and_is_resumed_by_them(dataset, opened):
    order = again(dataset)
    loader, got = opened(order), []
    for batch in loader:
        got.append(ids_of(batch))
        if len(got) == 3:
            order.update_weights(dataset.train_ids, other_weights(dataset))
            state = json.loads(json.dumps(loader.state_dict()))
            began_with, newer = loader.epoch_order.weights.copy(), order.weights.copy()
    following = read(loader)
    assert loader.epoch_order is order

    resumed_order = again(dataset)
    resumed_order.update_weights(dataset.train_ids, began_with)
    resumed = opened(resumed_order)
    resumed.load_state_dict(state)
    resumed_order.update_weights(dataset.train_ids, newer)
    assert resumed.state_dict() == state
    assert read(resumed) == got[3:]
    assert read(resumed) == following

    wrong = again(dataset)
    wrong.update_weights(dataset.train_ids, newer)
    refusing = opened(wrong)
    with pytest.raises(ConfigError, match=r"order\.weights .*epoch_order\.weights\) before load_state_dict"):
        refusing.load_state_dict(state) or next(iter(refusing))


def test_an_update_before_the_first_batch_counts_at_once(dataset, opened):
    order = again(dataset)
    loader = opened(order)
    order.update_weights(dataset.train_ids, other_weights(dataset))
    plain = again(dataset)
    plain.update_weights(dataset.train_ids, other_weights(dataset))
    assert read(loader) == plain.ids(1, 0, DRAWS).reshape(STEPS, -1).tolist()


class Growing(UniformOrder):
    """An order of the user's own that changes and cannot be kept."""

    fixed = False
    grown = 0

    def identity(self, epoch):
        return {**super().identity(epoch), "grown": self.grown}


def test_an_order_that_cannot_be_kept_and_changes_is_refused_at_once(dataset):
    order = Growing(dataset.train_ids, 1)
    assert len(dataset.train_ids) < WINDOW, "the planner, which looks at each window, does not see it"
    loader = Loader(dataset.repository, order, OPTIONS)
    batches = iter(loader)
    next(batches)
    order.grown = 1
    for use in (loader.state_dict, lambda: next(batches), lambda: next(iter(loader))):
        with pytest.raises(ConfigError, match=r"'uniform' changed in the middle of epoch 1; .* frozen"):
            use()
    loader.set_epoch(1)
    assert len(read(loader)) == len(dataset.train_ids) // 32
    loader.close()


@pytest.mark.parametrize("build", [once, again, lambda dataset: mixed(dataset)[0]])
def test_a_kept_order_is_equal_and_takes_no_copy_of_its_arrays(dataset, build):
    order = build(dataset)
    kept = order.frozen()
    assert kept.identity(2) == order.identity(2)
    assert (kept.ids(2, 0, DRAWS) == order.ids(2, 0, DRAWS)).all()
    if isinstance(order, WeightedOrder):
        assert kept.weights is order.weights
        assert order.frozen() is kept
        order.update_weights(dataset.train_ids[:1], np.array([2.0]))
        assert order.frozen() is not kept
        assert kept.identity(2) != order.identity(2)


@pytest.mark.parametrize("epoch", [2.5, "2", None, 0, -1])
def test_what_is_no_epochs_number_is_refused(dataset, epoch):
    loader = Loader(dataset.repository, again(dataset), OPTIONS)
    with loading(dataset) as torch_loader:
        for each in (loader, torch_loader, torch_loader.source):
            with pytest.raises(ConfigError, match=r"is no integer|must be at least 1"):
                each.set_epoch(epoch)
            each.set_epoch(np.int64(2))
            assert json.dumps(each.state_dict()["epoch"]) == "2"
    loader.close()
