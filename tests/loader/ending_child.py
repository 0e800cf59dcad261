"""A training job in a process of its own that ends in the way it is told to.

Argument: a JSON object with `url`, `endpoint`, `folder`, `how` and `after`, the batches before that. It says `ready`
once they came, and whether it ended by itself.
"""

import json
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np

from foreshard.loader.epochs import mark_epoch
from foreshard.loader.loader import Loader
from foreshard.loader.options import DiskTier, LoaderOptions, Logging
from foreshard.loader.order import UniformOrder
from foreshard.shards.repository import Repository
from foreshard.storage import ObjectStore


def say(line):
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def same(batch):
    return batch


def hang(_batch):
    time.sleep(0.2)  # until the loop waits for this
    say("ready")
    threading.Event().wait()


def leave(*_):
    sys.exit(3)


def main(job):
    """Read until something happens."""
    how = job["how"]
    if how == "handler":
        signal.signal(signal.SIGTERM, leave)
    store = ObjectStore.open(job["url"], endpoint=job["endpoint"])
    repository = Repository(store, "demo")
    settings = Logging("demo", f"attempt{job['attempt']}")
    options = LoaderOptions(
        16, memory=6000, queue_batches=1, logging=settings, disk=DiskTier(str(Path(job["folder"]) / "cache"), 2000)
    )
    ids = np.load(Path(job["folder"]) / "ids.npy")
    loader = Loader(repository, UniformOrder(ids, 1), options, transform=hang if how == "hang" else same)
    read, epoch = 0, 0
    while True:
        epoch += 1
        for _ in loader:
            read += 1
            if read == job["after"]:
                say("ready")
                if how == "exit":
                    return
                if how == "raise":
                    raise RuntimeError("on purpose")
                while how == "sleep":
                    time.sleep(0.1)  # not one long sleep: Python does not see a signal that comes just before it
        mark_epoch(repository, settings, [loader.last_epoch])


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    try:
        main(given)
    except KeyboardInterrupt:
        say("interrupted")
        raise
    finally:
        say("over")
