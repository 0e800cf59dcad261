"""What the tests of PyTorch training share: the order as a `Loader` gives it, and stores that the parent has used."""

import multiprocessing.forkserver
import os
from contextlib import contextmanager
from pathlib import Path

from layouts import make_dataset, publish

from foreshard.loader.loader import Loader
from foreshard.loader.options import LoaderOptions
from foreshard.loader.order import UniformOrder
from foreshard.loader.torch import data_loader

BATCH = 32
OPTIONS = LoaderOptions(BATCH, memory=40_000, timeout=30)
STEPS = 9  # of an epoch of `dataset_of`'s train split


def dataset_of(folder, store=None):
    """A dataset of 380 rows, its first layout published."""
    data = make_dataset(folder, 380, store)
    publish(data, 0, seed=1)
    assert len(data.train_ids) // BATCH == STEPS
    return data


def order_of(dataset):
    return UniformOrder(dataset.train_ids, 3)


def expected(dataset, epochs, order=None):
    """Sample ids by epoch and step, read by a `Loader` in this process: so the parent has used the store, too."""
    loader = Loader(dataset.repository, order or order_of(dataset), OPTIONS)
    found = [[batch.sample_ids.tolist() for batch in loader] for _ in range(epochs)]
    loader.close()
    return found


def ids(batches):
    return [batch["sample_id"].tolist() for batch in batches]


@contextmanager
def loading(dataset, order=None, options=OPTIONS, timeout=60, **settings):
    """A DataLoader that is closed with the block."""
    loader = data_loader(dataset.repository, order or order_of(dataset), options, timeout=timeout, **settings)
    try:
        yield loader
    finally:
        loader.close()


def stop_forkserver():
    """End the server process: it keeps the environment, and so the credentials, of the moment it was started."""
    multiprocessing.forkserver._forkserver._stop()


def children(pid=None):
    """Processes whose parent is this one, or another."""
    pid = pid or os.getpid()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
            words = (folder / "cmdline").read_text().split("\0")
        except OSError:
            continue
        state, parent = stat.rpartition(") ")[2].split()[:2]
        if int(parent) == pid and state != "Z":
            found.append((int(folder.name), words))
    return found


def readers():
    """Processes that read for forked ones, below this process or left over from it."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_text()
        except OSError:
            continue
        if "foreshard.loader.forked" in words:
            found.append(int(folder.name))
    return found
