"""One loop at a time over a PyTorch loader, what would be lost in it, and a new one after a worker died.

Every DataLoader here has a deadline of its own; a hang fails the test.
"""

import os
import signal
from contextlib import suppress

import pytest
import torch.utils.data  # noqa: TID253
from torch_world import OPTIONS, STEPS, dataset_of, expected, ids, loading, order_of, readers, stop_forkserver
from waiting import wait_until

from foreshard.errors import ConfigError
from foreshard.loader.order import ListedOrder
from foreshard.loader.torch import TorchDataset

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

WORKERS = {"0": {}, "2": {"num_workers": 2, "multiprocessing_context": "fork"}}
BUSY = "is being iterated already; finish that loop or call close"
DIED = r"DataLoader worker \(pid"


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    yield dataset_of(tmp_path_factory.mktemp("loops"))
    stop_forkserver()


@pytest.fixture(params=WORKERS)
def loader(local, request):
    with loading(local, **WORKERS[request.param]) as opened:
        yield opened


def kill_one(loader, steps):
    """Read some batches, then kill a worker and read on."""
    for done, _ in enumerate(loader, 1):
        if done == steps:
            os.kill(loader._iterator._workers[1].pid, signal.SIGKILL)


# PyTorch raises out of its handler of SIGCHLD, wherever that finds the parent: also in a finalizer that runs just then.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_after_a_workers_death_the_next_loop_goes_on_with_fresh_workers(local, start):
    want = expected(local, 2)
    with loading(local, num_workers=2, multiprocessing_context=start, prefetch_factor=1) as loader:
        with pytest.raises(RuntimeError, match=DIED):
            kill_one(loader, 2)
        done = loader.state_dict()["step"]
        assert 2 <= done < STEPS
        assert ids(loader) == want[0][done:]
        assert ids(loader) == want[1]
    wait_until(lambda: not readers())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_workers_that_die_between_two_loops_are_replaced(local, start):
    want = expected(local, 2)
    with loading(local, num_workers=1, multiprocessing_context=start) as loader:
        assert ids(loader) == want[0]
        [worker] = loader._iterator._workers
        with suppress(RuntimeError):  # out of that handler, which may find the parent here
            worker.kill()
            worker.join(30)
        assert not worker.is_alive()
        assert ids(loader) == want[1]


def test_a_wait_for_a_worker_that_has_died_unseen_ends_before_its_deadline(local):
    want = expected(local, 1)
    with loading(local, timeout=500, num_workers=1, multiprocessing_context="forkserver", prefetch_factor=1) as loader:
        batches = iter(loader)
        assert next(batches)["sample_id"].tolist() == want[0][0]
        loader._iterator._workers[0].kill()
        with pytest.raises(RuntimeError, match=DIED):
            list(batches)
        done = loader.state_dict()["step"]
        assert ids(loader) == want[0][done:]


def test_neither_a_state_nor_an_epoch_is_lost_in_a_loop(loader):
    state = loader.state_dict()
    for _ in loader:
        for change in (lambda: loader.load_state_dict(state), lambda: loader.set_epoch(5)):
            with pytest.raises(ConfigError, match=BUSY):
                change()
        break
    assert loader.state_dict()["step"] == 1
    loader.set_epoch(5)
    loader.load_state_dict(state)
    assert loader.state_dict() == state


def test_two_loops_at_a_time_are_refused_and_the_next_one_is_whole(loader, local):
    with pytest.raises(ConfigError, match=BUSY):
        list(zip(loader, loader, strict=True))
    assert loader.state_dict()["step"] == 1
    assert ids(loader) == expected(local, 1)[0][1:]


def test_a_loop_ends_with_its_loader(loader, local):
    batches = iter(loader)
    next(batches)
    loader.close()
    with pytest.raises(ConfigError, match="ended by the loader's close"):
        list(batches)
    assert ids(loader) == expected(local, 1)[0][1:]


def test_a_dataset_that_is_read_in_this_process_refuses_the_same(local):
    source = TorchDataset(local.repository, order_of(local), OPTIONS)
    for _ in torch.utils.data.DataLoader(source, batch_size=None):
        with pytest.raises(ConfigError, match=BUSY):
            source.set_epoch(2)
        break
    source.set_epoch(2)
    assert ids(torch.utils.data.DataLoader(source, batch_size=None)) == expected(local, 2)[1]
    source.close()


@pytest.mark.filterwarnings("ignore:Got pickle error:UserWarning")  # PyTorch's own words about the same
@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("persistent", [True, False])
def test_an_order_that_cannot_be_sent_to_workers_is_refused_by_name(local, start, fixed, persistent):
    order = ListedOrder(lambda _: local.train_ids, fixed=fixed)
    settings = {"num_workers": 1, "multiprocessing_context": start, "persistent_workers": persistent}
    with (
        loading(local, order, **settings) as loader,
        pytest.raises(ConfigError, match=r"the order cannot be sent to workers: .*lambda.* or read with num_workers=0"),
    ):
        ids(loader)


@pytest.mark.filterwarnings("ignore:Got pickle error:UserWarning")
def test_a_transform_that_cannot_be_sent_to_workers_is_refused_by_name(local):
    settings = {"num_workers": 1, "multiprocessing_context": "spawn"}
    with (
        loading(local, transform=lambda batch: batch.sample_ids, **settings) as loader,
        pytest.raises(ConfigError, match=r"the transform cannot be sent to workers: .*lambda"),
    ):
        ids(loader)
