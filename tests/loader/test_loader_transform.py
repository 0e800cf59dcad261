"""A transform runs in threads ahead of the training loop and changes neither sequence nor state."""

import threading
import time
from concurrent.futures import Future

import numpy as np
import pytest
from layouts import make_dataset, publish
from serving import threads

from foreshard.errors import ConfigError, DeadlineError
from foreshard.loader.loader import Loader
from foreshard.loader.options import LoaderOptions
from foreshard.loader.order import UniformOrder
from foreshard.loader.transforms import result

BATCH = 32


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    data = make_dataset(tmp_path_factory.mktemp("transform"), 500)
    publish(data, 0, seed=1)
    return data


def loading(dataset, transform, **options):
    settings = {"memory": 8000, **options}
    order = UniformOrder(dataset.train_ids, 5)
    return Loader(dataset.repository, order, LoaderOptions(BATCH, **settings), transform=transform)


def test_items_come_in_order_whichever_thread_was_quicker(dataset):
    def slow_at_first(batch):
        time.sleep(0.02 if batch.step % 4 == 0 else 0)
        return batch.step, batch["value"] // 10

    loader = loading(dataset, slow_at_first, transform_threads=4)
    for epoch in (1, 2):
        items = list(loader)
        assert [step for step, _ in items] == list(range(12))
        assert (np.concatenate([ids for _, ids in items]) == loader.order.ids(epoch, 0, 384)).all()
    loader.close()
    assert not threads()


def test_several_batches_are_transformed_at_a_time_ahead_of_the_loop(dataset):
    together = threading.Barrier(3)

    def meet(batch):
        together.wait(20)  # three threads, or nobody gets on
        return threading.current_thread().name, batch.step

    loader = loading(dataset, meet, transform_threads=3)
    names = {name for name, _ in loader}
    assert len(names) == 3
    assert threading.current_thread().name not in names
    loader.close()


def test_an_error_comes_at_its_batchs_turn_and_the_batch_is_not_lost(dataset):
    broken = True

    def fail_once(batch):
        if broken and batch.step == 5:
            raise ValueError("no picture")
        return batch.step

    loader = loading(dataset, fail_once)
    seen = []
    with pytest.raises(ValueError, match="no picture"):
        seen.extend(loader)
    broken = False
    assert loader.state_dict()["step"] == 5
    assert list(loader) == [5, 6, 7, 8, 9, 10, 11]
    loader.close()


def test_a_transform_that_hangs_is_reported_within_the_timeout(dataset):
    go_on = threading.Event()
    loader = loading(dataset, lambda _: go_on.wait(30), timeout=0.3)
    with pytest.raises(DeadlineError, match=r"transform of step 0 of epoch 1 did not return within 0.3 s"):
        next(_releasing(loader, go_on))
    loader.close()
    assert not threads()


def _releasing(loader, event):
    """Iterate, and let the transform go once its deadline has passed, as closing waits for it."""
    timer = threading.Timer(1.0, event.set)
    timer.start()
    yield from loader


@pytest.mark.parametrize("ended", ["returned", "raised"])
def test_a_transform_that_ends_while_its_deadline_passes_counts_as_it_ended(ended):
    class Late(Future):
        def result(self, timeout=None):
            if not self.done():
                self.set_result(("item", 1.0)) if ended == "returned" else self.set_exception(TimeoutError("its own"))
                raise TimeoutError
            return super().result(timeout)

    if ended == "returned":
        assert result(Late(), None, 0.1) == ("item", 1.0)
    else:
        with pytest.raises(TimeoutError, match="its own"):
            result(Late(), None, 0.1)


def test_what_was_transformed_ahead_is_made_again_after_a_resume(dataset):
    loader = loading(dataset, lambda batch: batch.step)
    batches = iter(loader)
    head = [next(batches) for _ in range(4)]
    state = loader.state_dict()
    batches.close()
    loader.close()
    other = loading(dataset, lambda batch: batch.step)
    other.load_state_dict(state)
    assert head + list(other) == list(range(12))
    other.close()


def test_no_threads_for_a_transform_is_refused():
    with pytest.raises(ConfigError, match="transform_threads 0 must be at least 1"):
        LoaderOptions(BATCH, transform_threads=0)
