"""A training job in a process of its own, as the library alone is installed: reads epochs and tells what it holds.

Arguments: the store's folder, the loader's memory in bytes, the number of epochs. Prints a JSON object.
"""

import gc
import json
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from foreshard.loader.loader import Loader
from foreshard.loader.options import LoaderOptions
from foreshard.loader.order import BlockShuffleOrder
from foreshard.prefetch import concurrency
from foreshard.shards.repository import Repository
from foreshard.storage import ObjectStore


def kilobytes(name):
    """A figure of /proc/self/status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def tasks():
    """How many threads the kernel knows, Python's or not, but those of the store client's own pool, which it bounds."""
    names = []
    for path in Path("/proc/self/task").glob("*/comm"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended just now
            names.append(path.read_text())
    return sum(not name.startswith("tokio") for name in names)


def tasks_at_rest(most, seconds=10):
    """The same, once they are `most`, or else after a while: a thread that was joined may take a moment to go."""
    deadline = time.monotonic() + seconds
    while tasks() > most and time.monotonic() < deadline:
        time.sleep(0.01)
    return tasks()


def descriptors():
    """How many files, sockets and the like are open, this listing among them."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def holdings(store):
    """What a process may leak."""
    names = [thread.name for thread in threading.enumerate()]
    ours = sorted(name for name in names if name.startswith("foreshard-"))
    return {
        "rss": kilobytes("VmRSS"),
        "threads": ours,
        "descriptors": descriptors(),
        "files": sorted(path.name for path in Path(tempfile.gettempdir()).iterdir()),
        "objects": sorted(meta.key for meta in store.list("")),
    }


def main(folder, memory, epochs):
    """Read, and check every row."""
    # pyarrow loads pandas where it finds it, some 30 MiB; it is no dependency of the library, only of its extra `plan`.
    sys.modules["pandas"] = None
    options = LoaderOptions(32, memory=memory, timeout=60)
    # What a busy machine may bring a loader to: each fetch at a time is a thread, for which the allocator keeps memory.
    concurrency.START = options.max_concurrency
    concurrency.Concurrency._judge = lambda *_: None
    report = {"imported": kilobytes("VmRSS"), "concurrency": options.max_concurrency}
    store = ObjectStore.open(Path(folder).as_uri())
    repository = Repository(store, "data")
    rows = repository.open().header.rows
    order = BlockShuffleOrder(np.arange(rows), 3, block=40, window=16)
    Loader(repository, order, options).close()  # starts the pools of native libraries
    gc.collect()
    report["before"], report["tasks_before"] = holdings(store), tasks()
    loader = Loader(repository, order, options)
    report["epochs"], report["budgets"], read = [], [], 0
    for _ in range(epochs):
        for batch in loader:
            assert (batch["label"] == batch.sample_ids).all()
            payload = batch.rows.column("payload")
            assert [payload[i].as_buffer()[0] for i in (0, 31)] == (batch.sample_ids[[0, 31]] % 251).tolist()
            read += payload.nbytes
        report["epochs"].append(holdings(store))
        report["budgets"].append(loader.last_epoch.stats.peak_bytes)
    loader.close()
    del loader  # and with it the manifest, whose files it maps
    gc.collect()
    report["closed"], report["tasks_closed"] = holdings(store), tasks_at_rest(report["tasks_before"])
    report["peak"], report["read"] = kilobytes("VmHWM"), read
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
