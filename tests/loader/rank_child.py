"""One rank of a training job in a process of its own; it runs no collective, and answers for its batches line by line.

Reads a JSON object from standard input: `url`, `endpoint`, `rank`, `world`, `batch`, `state` to resume from (or null)
and `stop`, the step at which it waits for ever (or null). Prints a line for each batch: its step, places in the global
batch and ids of its samples, and the state after it.
"""

import json
import sys
import time

import numpy as np

from foreshard.loader.dealing import Place
from foreshard.loader.loader import Loader
from foreshard.loader.options import LoaderOptions
from foreshard.loader.order import UniformOrder
from foreshard.shards.repository import Repository
from foreshard.splits import split_code
from foreshard.storage import ObjectStore


def main(job):
    """Read one epoch, or the rest of it."""
    repository = Repository(ObjectStore.open(job["url"], endpoint=job["endpoint"]), "demo")
    manifest = repository.open()
    train = np.flatnonzero(manifest.splits[manifest.chunk_of] == split_code("train"))
    options = LoaderOptions(job["batch"], place=Place(job["rank"], job["world"]), memory=6000, queue_batches=2)
    loader = Loader(repository, UniformOrder(train, 1), options)
    if job["state"] is not None:
        loader.load_state_dict(job["state"])
    for batch in loader:
        assert (batch["value"] == batch.sample_ids * 10).all()
        line = [batch.step, batch.positions.tolist(), batch.sample_ids.tolist(), loader.state_dict()]
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        if batch.step == job["stop"]:
            time.sleep(600)
    loader.close()


if __name__ == "__main__":
    main(json.loads(sys.stdin.read()))
