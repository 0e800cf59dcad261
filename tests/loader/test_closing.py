"""Loaders end with a block, and quietly if they are forgotten."""

import gc

import pytest
from serving import threads
from torch_world import OPTIONS, dataset_of, ids, order_of, readers
from waiting import wait_until

from foreshard.loader.loader import Loader
from foreshard.loader.torch import data_loader

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    return dataset_of(tmp_path_factory.mktemp("closing"))


class LoopError(Exception):
    pass


def read_and_fail(loader):
    with loader as same:
        assert same is loader
        next(iter(loader))
        raise LoopError


@pytest.mark.parametrize("make", [Loader, data_loader])
def test_a_block_closes_its_loader_however_it_ends(local, make):
    loader = make(local.repository, order_of(local), OPTIONS)
    with pytest.raises(LoopError):
        read_and_fail(loader)
    assert not threads()
    assert loader.state_dict()["step"] == 1


def test_a_block_ends_the_workers_of_its_loader(local):
    settings = {"num_workers": 1, "multiprocessing_context": "fork", "timeout": 60}
    with data_loader(local.repository, order_of(local), OPTIONS, **settings) as loader:
        ids(loader)
        workers = loader._iterator._workers
    assert not any(worker.is_alive() for worker in workers)
    wait_until(lambda: not readers())


@pytest.mark.s3
def test_a_loader_of_an_s3_store_that_is_forgotten_leaves_no_socket_open(seaweedfs_location, tmp_path):
    dataset = dataset_of(tmp_path, seaweedfs_location.open())
    loader = Loader(dataset.repository, order_of(dataset), OPTIONS)
    list(loader)
    del loader
    gc.collect()  # a warning of an open socket fails the test
