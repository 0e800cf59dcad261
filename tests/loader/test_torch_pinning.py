"""Pinned memory: PyTorch's own pinning finds every tensor of a batch, and the order and state pass through it unharmed.

There is no accelerator where these tests run, so nothing is pinned in earnest: PyTorch's thread and functions are real,
the copy to pinned memory at their end is recorded instead.
"""

import threading

import pytest
import torch  # noqa: TID253
import torch.utils.data._utils.pin_memory as pinning  # noqa: TID253
from torch_world import OPTIONS, STEPS, dataset_of, expected, ids, loading
from waiting import wait_until

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    return dataset_of(tmp_path_factory.mktemp("pinning"))


@pytest.fixture
def copied(monkeypatch):
    """The threads in which tensors were pinned, one entry each."""
    where = []

    def pin(tensor):
        where.append(threading.current_thread())
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    return where


def test_without_an_accelerator_pytorch_says_that_it_pins_nothing_and_the_order_is_the_same(local, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with loading(local, pin_memory=True) as loader, pytest.warns(UserWarning, match="no accelerator is found"):
        assert ids(loader) == expected(local, 1)[0]


def test_every_tensor_of_a_batch_is_pinned_and_its_texts_and_state_are_as_they_were(local, copied):
    with loading(local) as loader:
        item, (epoch, step, run) = next(iter(loader.dataset))
        tensors = [name for name, value in item.items() if isinstance(value, torch.Tensor)]
        assert sorted(tensors) == ["late", "sample_id", "value"]
        pinned, told = pinning.pin_memory((item, (epoch, step, run)), "cuda")
        assert len(copied) == len(tensors)
        assert told == (epoch, step, run)
        assert [*pinned] == [*item]
        assert all(torch.equal(pinned[name], item[name]) for name in tensors)
        assert pinned["text"] == item["text"]


def test_the_order_and_the_state_come_through_pytorchs_pinning_thread(local, copied, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "set_device_index", lambda _: None)
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
    want = expected(local, 2)
    with loading(local, num_workers=2, pin_memory=True, multiprocessing_context="fork") as loader:
        assert ids(loader) == want[0]
        assert len(copied) == 3 * STEPS
        assert threading.current_thread() not in copied, "the training loop does not wait for the copy"
        head = [batch["sample_id"].tolist() for _, batch in zip(range(4), loader, strict=False)]
        state = loader.state_dict()
        assert (state["epoch"], state["step"]) == (2, 4)
    wait_until(lambda: not any(thread.is_alive() for thread in copied))
    with loading(local, options=OPTIONS, pin_memory=True) as loader:
        loader.load_state_dict(state)
        assert head + ids(loader) == want[1]
