"""Where a PyTorch loop stands: counted by what it received, resumed at any step under any workers and world size."""

import pickle

import numpy as np
import pytest
from torch_world import BATCH, OPTIONS, STEPS, dataset_of, expected, ids, loading, order_of
from waiting import wait_until

from foreshard.errors import ConfigError
from foreshard.loader.dealing import Place
from foreshard.loader.loader import Loader
from foreshard.loader.options import LoaderOptions
from foreshard.loader.order import UniformOrder, WeightedOrder

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
FORK = {"multiprocessing_context": "fork"}
WORKERS = [{}, {"num_workers": 1, **FORK}, {"num_workers": 2, **FORK}]
NAMES = ["0", "1", "2"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return dataset_of(tmp_path_factory.mktemp("state"))


@pytest.mark.parametrize("settings", WORKERS, ids=NAMES)
def test_the_state_counts_what_was_received_and_not_what_workers_read_ahead(dataset, settings):
    with loading(dataset, **settings) as loader:
        assert loader.state_dict() == {"epoch": 1, "step": 0}
        for done, _ in enumerate(loader, 1):
            state = loader.state_dict()
            assert (state["epoch"], state["step"]) == ((1, done) if done < STEPS else (2, 0))
        other = Loader(dataset.repository, order_of(dataset), OPTIONS)
        other.load_state_dict(state)
        assert other.state_dict() == state
        other.close()
        assert len(pickle.dumps(state)) < 1000


@pytest.mark.parametrize("settings", WORKERS, ids=NAMES)
def test_every_step_can_be_resumed_from(dataset, settings):
    want = expected(dataset, 2)
    with loading(dataset) as loader:
        states = [loader.state_dict() for _ in loader]
    with loading(dataset, **settings) as resumed:
        for done, state in enumerate(states[:-1], 1):
            resumed.load_state_dict(state)
            assert ids(resumed) == want[0][done:]
        assert ids(resumed) == want[1]


def test_a_state_taken_with_workers_is_resumed_by_others_at_another_world_size(dataset):
    want = expected(dataset, 2)
    with loading(dataset, num_workers=2, **FORK) as loader:
        batches = iter(loader)
        got = [next(batches)["sample_id"].tolist() for _ in range(4)]
        state = pickle.loads(pickle.dumps(loader.state_dict()))  # noqa: S301
    parts = []
    for rank in range(2):
        options = LoaderOptions(BATCH, place=Place(rank, 2), memory=40_000, timeout=30)
        with loading(dataset, options=options, num_workers=rank, **(FORK if rank else {})) as resumed:
            resumed.load_state_dict(state)
            parts.append(ids(resumed) + ids(resumed))
    assert got + [a + b for a, b in zip(*parts, strict=True)] == want[0] + want[1]


@pytest.mark.parametrize("settings", WORKERS, ids=NAMES)
def test_weights_that_change_between_epochs_reach_workers_that_live_on(dataset, settings):
    def order():
        first = UniformOrder(dataset.train_ids, 3)
        return WeightedOrder(dataset.train_ids, 5, draws=100, first_pass=first)

    def weights(epoch):
        return np.random.default_rng(epoch).random(len(dataset.train_ids)) ** 4

    plain, mine = order(), order()
    reference = Loader(dataset.repository, plain, OPTIONS)
    with loading(dataset, mine, **settings) as loader:
        for epoch in range(1, 4):
            assert len(loader) == (STEPS if epoch == 1 else 3)
            assert ids(loader) == [batch.sample_ids.tolist() for batch in reference]
            for each in (plain, mine):
                each.update_weights(dataset.train_ids, weights(epoch))
        assert loader.state_dict() == reference.state_dict()
    reference.close()


def test_an_epoch_can_be_chosen(dataset):
    want = expected(dataset, 3)
    with loading(dataset) as loader:
        loader.set_epoch(3)
        assert ids(loader) == want[2]
        loader.set_epoch(2)
        assert ids(loader) == want[1]
        with pytest.raises(ConfigError, match="epoch 0 must be at least 1"):
            loader.set_epoch(0)


@pytest.mark.parametrize("settings", WORKERS[:2], ids=NAMES[:2])
def test_a_state_of_another_order_is_refused_before_the_first_batch(dataset, settings):
    with loading(dataset, UniformOrder(dataset.train_ids, 99)) as other:
        next(iter(other))
        state = other.state_dict()
    with loading(dataset, **settings) as loader:
        loader.load_state_dict(state)
        with pytest.raises(ConfigError, match=r"loader state has order\.seed 99.* this loader 3"):
            ids(loader)


@pytest.mark.parametrize("state", [{}, {"epoch": 0, "step": 0}, {"epoch": 1, "step": 3}, {"epoch": 1, "step": None}])
def test_what_is_no_state_is_refused(dataset, state):
    with loading(dataset) as loader, pytest.raises(ConfigError, match="give what state_dict"):
        loader.load_state_dict(state)


def test_files_for_workers_go_with_the_loader(dataset):
    with loading(dataset, num_workers=1, **FORK) as loader:
        folder = loader._notice.parent
        ids(loader)
        assert folder.exists()
    del loader
    wait_until(lambda: not folder.exists())
