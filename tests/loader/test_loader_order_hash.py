"""Loaders over worlds, workers and layouts: whatever changes in mid-run, all that they hand out has one order hash."""

import hashlib
import itertools

import numpy as np
import pytest
from layouts import make_dataset, publish
from serving import threads

from foreshard.loader.dealing import Place
from foreshard.loader.loader import Loader
from foreshard.loader.options import LoaderOptions
from foreshard.loader.order import BlockShuffleOrder, UniformOrder

BATCH, STEPS = 32, 10
PAIRS = [(1, 0), (2, 1), (4, 2), (8, 4)]
"""(world, workers); 0 workers read in the rank's own process, which deals like one."""
KINDS = {
    "uniform": lambda ids: UniformOrder(ids, 5),
    "block_shuffle": lambda ids: BlockShuffleOrder(ids, 5, block=16, window=3),
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    data = make_dataset(tmp_path_factory.mktemp("hash"), 420)
    publish(data, 0, seed=1, chunk_rows=12)
    publish(data, 3, seed=2, chunk_rows=50)
    assert len(data.train_ids) // BATCH == STEPS
    return data


@pytest.fixture(scope="module")
def layouts(dataset):
    return [dataset.repository.layouts(f"demo.e{epoch:06d}")[0] for epoch in (0, 3)]


class Run:
    """Puts together by place what the readers of a run receive."""

    def __init__(self, dataset, kind, dealing):
        self.dataset, self.order, self.dealing = dataset, KINDS[kind](dataset.train_ids), dealing
        self.seen = np.full((3, STEPS, BATCH), -1)

    def readers(self, world, workers, layout):
        """Open one loader after the other, each for a worker of a rank, and close it in the end."""
        for rank, worker in itertools.product(range(world), range(workers or 1)):
            place = Place(rank, world, worker, workers or 1)
            # With so little memory, chunks are fetched all the time; leases have tests of their own.
            options = LoaderOptions(BATCH, place=place, dealing=self.dealing, memory=9000, lease_ttl=0)
            loader = Loader(self.dataset.repository, self.order, options, layout=layout)
            yield loader
            loader.close()

    def read(self, loader, stop=STEPS):
        """Read the steps of the current epoch before `stop`."""
        place = loader.options.place
        if place.worker >= stop:
            return
        for batch in loader:
            where = batch.epoch - 1, batch.step, batch.positions
            assert (self.seen[where] == -1).all(), "nothing comes twice"
            assert batch["value"].tolist() == (batch.sample_ids * 10).tolist()
            self.seen[where] = batch.sample_ids
            if batch.step + place.workers >= stop:
                break

    @property
    def digest(self):
        return hashlib.sha256(self.seen.tobytes()).hexdigest()

    @property
    def expected(self):
        epochs = [self.order.ids(epoch, 0, STEPS * BATCH) for epoch in (1, 2, 3)]
        return hashlib.sha256(np.concatenate(epochs).tobytes()).hexdigest()


@pytest.mark.parametrize(("kind", "dealing"), [("uniform", "position"), ("block_shuffle", "owner")])
@pytest.mark.parametrize(("before", "after"), list(zip(PAIRS, reversed(PAIRS), strict=True)))
def test_one_order_hash_through_a_reshard_a_move_in_mid_epoch_and_a_hand_over_to_another_world_and_layout(
    dataset, layouts, before, after, kind, dealing
):
    run, hand_over, state = Run(dataset, kind, dealing), 3, None
    for loader in run.readers(*before, layouts[0]):
        run.read(loader)
        assert loader.refresh(layouts[1])  # between epochs
        if dealing == "position":
            run.read(loader, stop=6)
            assert loader.refresh(layouts[0])  # in the middle of one
        run.read(loader)
        run.read(loader, stop=hand_over)
        place = loader.options.place
        if place.worker == (hand_over - 1) % place.workers:  # who handed out the last step
            state = loader.state_dict()
    for loader in run.readers(*after, layouts[0] if dealing == "owner" else layouts[1]):
        loader.load_state_dict(state)
        run.read(loader)
    assert run.digest == run.expected
    assert threads() == []
