"""DataLoader workers, however they are started, after the parent has used the store: same order, no hang, no leftovers.

Every DataLoader here has a deadline of its own; a hang fails the test.
"""

import os
import signal

import pytest
import torch.utils.data  # noqa: TID253
from layouts import make_dataset, publish
from serving import threads
from torch_world import (
    BATCH,
    OPTIONS,
    children,
    dataset_of,
    expected,
    ids,
    loading,
    order_of,
    readers,
    stop_forkserver,
)
from waiting import wait_until

from foreshard.errors import BudgetError, ConfigError, StorageError
from foreshard.loader.options import LoaderOptions
from foreshard.loader.torch import TorchDataset
from foreshard.storage import ObjectStore

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    return dataset_of(tmp_path_factory.mktemp("workers"))


@pytest.fixture
def fresh_forkserver():
    stop_forkserver()
    yield
    stop_forkserver()


@pytest.mark.s3
@pytest.mark.usefixtures("fresh_forkserver")
@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_workers_read_from_s3_after_their_parent_did(seaweedfs_location, tmp_path, start):
    dataset = dataset_of(tmp_path, seaweedfs_location.open())
    want = expected(dataset, 2)
    with loading(dataset, num_workers=2, multiprocessing_context=start) as loader:
        assert [ids(loader) for _ in range(2)] == want
    wait_until(lambda: not readers())
    assert not list(dataset.repository.store.list(dataset.repository.keys.leases))
    # The parent's own client is unharmed.
    assert expected(dataset, 1) == want[:1]


@pytest.mark.s3
def test_a_plain_data_loader_under_fork_reads_from_s3(seaweedfs_location, tmp_path):
    dataset = dataset_of(tmp_path, seaweedfs_location.open())
    want = expected(dataset, 2)
    source = TorchDataset(dataset.repository, order_of(dataset), OPTIONS)
    for epoch in (1, 2):
        source.set_epoch(epoch)
        plain = torch.utils.data.DataLoader(
            source, batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60
        )
        assert ids(plain) == want[epoch - 1]
    wait_until(lambda: not readers())


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_that_end_with_their_epoch_give_the_same_order(local, workers):
    settings = {"num_workers": workers, "multiprocessing_context": "fork", "persistent_workers": False}
    with loading(local, **settings) as loader:
        assert len(loader) == 9
        assert [ids(loader) for _ in range(2)] == expected(local, 2)


def test_nothing_is_opened_in_a_parent_that_does_not_read(local):
    with loading(local, num_workers=1, multiprocessing_context="fork") as loader:
        batches = iter(loader)
        next(batches)
        assert loader.source.last_epoch is None
        assert "nothing was read in this process" in loader.source.report()
        assert loader.source._reader is None
        assert not threads()


def test_a_dataset_that_was_read_before_its_process_forked_goes_on_in_the_child(local):
    dataset = TorchDataset(local.repository, order_of(local), OPTIONS)
    want = expected(local, 2)
    assert ids(dataset) == want[0]
    pid = os.fork()
    if pid == 0:
        signal.alarm(40)
        right = False
        try:
            right = ids(dataset) == want[1]
            dataset.close()
        finally:
            os._exit(0 if right else 3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert ids(dataset) == want[1]
    dataset.close()


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_store_that_only_this_process_has_is_refused_at_once(tmp_path, start):
    dataset = make_dataset(tmp_path, 200, ObjectStore.open("memory://"))
    publish(dataset, 0, seed=1)
    with (
        loading(dataset, num_workers=1, multiprocessing_context=start) as loader,
        pytest.raises(ConfigError, match="memory:// cannot be opened by another process"),
    ):
        ids(loader)


def test_a_workers_error_keeps_its_type_and_words(local):
    poor = LoaderOptions(BATCH, memory=64, timeout=30)
    with (
        loading(local, options=poor, num_workers=1, multiprocessing_context="fork") as loader,
        pytest.raises(BudgetError, match="memory"),
    ):
        ids(loader)


def test_a_reading_process_that_is_killed_is_reported(local):
    with loading(local, num_workers=1, multiprocessing_context="fork", prefetch_factor=1) as loader:
        batches = iter(loader)
        next(batches)
        [(worker, _)] = [child for child in children() if children(child[0])]
        [(reader, words)] = children(worker)
        assert any("foreshard.loader.forked" in word for word in words)
        os.kill(reader, signal.SIGKILL)
        with pytest.raises(StorageError, match=r"reads? for the forked process \d+, ended with exit code -9"):
            list(batches)


def kill_and_read_on(pid, batches):
    os.kill(pid, signal.SIGKILL)
    list(batches)


# PyTorch raises out of its handler of SIGCHLD, wherever that finds the parent: also in a finalizer that runs just then.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_reading_process_ends_with_a_worker_that_is_killed(local):
    with loading(local, num_workers=1, multiprocessing_context="fork", prefetch_factor=1) as loader:
        batches = iter(loader)
        next(batches)
        [(worker, _)] = [child for child in children() if children(child[0])]
        [(reader, _)] = children(worker)
        with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid"):  # wherever the signal finds the parent
            kill_and_read_on(worker, batches)
        wait_until(lambda: reader not in readers())


def test_a_loop_that_is_left_goes_on_where_it_was_left(local):
    want = expected(local, 2)
    with loading(local, num_workers=2, multiprocessing_context="fork") as loader:
        for done, batch in enumerate(loader):
            assert batch["sample_id"].tolist() == want[0][done]
            if done == 3:
                break
        assert ids(loader) == want[0][4:]
        assert ids(loader) == want[1]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_new_layout_is_read_from_the_next_epoch_on_in_the_same_order(tmp_path, workers):
    dataset = dataset_of(tmp_path)
    want = expected(dataset, 2)
    settings = {"num_workers": 1, "multiprocessing_context": "fork"} if workers else {}
    with loading(dataset, **settings) as loader:
        assert ids(loader) == want[0]
        publish(dataset, 1, seed=2)
        assert ids(loader) == want[1]
        if not workers:
            assert "Altogether: " in loader.source.report()
            assert loader.source.last_epoch.layout.generation == "demo.e000001"
