"""What the tests of the disk tier share: loaders with one, ranks, and a store that tells others what it serves."""

import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
from serving import CountingStore

from foreshard.loader.dealing import Place
from foreshard.loader.loader import Loader
from foreshard.loader.options import DiskTier, LoaderOptions
from foreshard.loader.order import UniformOrder
from foreshard.shards.repository import Repository
from foreshard.storage import ObjectStore

BATCH = 16
ROOMY = 10_000_000


class LoggingStore(CountingStore):
    """Writes every range that is asked for to a file, for other processes to see, and then waits a while."""

    def __init__(self, store, log, pause):
        super().__init__(store)
        self._log, self._pause = log, pause

    def get_range(self, key, start, end):
        handle = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(handle, f"{key} {start} {end}\n".encode())
        os.close(handle)
        time.sleep(self._pause)
        return super().get_range(key, start, end)


def load(store, ids, folder, *, nbytes=ROOMY, **options):
    """A loader with little memory, and a disk tier unless the folder is None."""
    disk = None if folder is None else DiskTier(str(folder / "cache"), nbytes)
    settings = {"global_batch": BATCH, "memory": 6000, "timeout": 20.0, "lease_ttl": 0.0, "disk": disk, **options}
    return Loader(Repository(store, "demo"), UniformOrder(ids, 1), LoaderOptions(**settings))


def read(loader, epochs=1):
    """The sample ids that a loader hands out in some epochs, their values checked."""
    found = []
    for _ in range(epochs):
        for batch in loader:
            assert (batch["value"] == batch.sample_ids * 10).all()
            found.append(batch.sample_ids)
    return np.concatenate(found)


def _rank(address, folder, rank, world, pause, timeout):
    """Read two epochs in a process of its own, and leave what came, by rank."""
    url, endpoint = address
    store = LoggingStore(ObjectStore.open(url, endpoint=endpoint), folder / "served", pause)
    ids = np.load(folder / "ids.npy")
    loader = load(store, ids, folder, place=Place(rank, world), timeout=timeout)
    np.save(folder / f"rank{rank}.npy", read(loader, 2))
    loader.close()


def start_rank(dataset, folder: Path, rank, world, *, pause=0.002, timeout=20.0, endpoint=None):
    """Start a rank in a fresh process; `endpoint` is where an S3 store is."""
    np.save(folder / "ids.npy", dataset.train_ids)
    arguments = ((dataset.repository.store.url, endpoint), folder, rank, world, pause, timeout)
    process = multiprocessing.get_context("spawn").Process(target=_rank, args=arguments, daemon=True)
    process.start()
    return process


def files(folder):
    """Names of the chunks in the tier."""
    return sorted(path.name for path in (folder / "cache" / "chunks").iterdir())
