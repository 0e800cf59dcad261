"""What the four examples read: the flights of 2013, laid out and published once; and how they tell what was read."""

import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from examples.flights.model import COLUMNS, features, labels
from examples.flights.source import prepare_source
from foreshard import ObjectStore, Repository, read_split
from foreshard.chain import Chain
from foreshard.config import ForeshardConfig
from foreshard.splits import split_code

FOLDER = Path(tempfile.gettempdir()) / f"foreshard-examples-{os.getuid()}"
"""Where the examples keep what they make, unless they are told otherwise."""

Data = Annotated[
    str, typer.Option(help="Store of the layout, file:///folder or s3://bucket/prefix; it is made there if missing.")
]
Rows = Annotated[int, typer.Option(min=2_000, help="How many flights, spread over the year.")]
DATA = (FOLDER / "store").as_uri()
ROWS = 48_000


def open_flights(url: str, rows: int) -> Repository:
    """Return the repository of a layout of so many flights; the first call writes and publishes it.

    Args:
        url: the store; a server other than AWS is found by AWS_ENDPOINT_URL, credentials by the usual AWS_* variables.
        rows: how many flights.
    """
    name = f"flights-{rows}"
    repository = Repository(ObjectStore.open(url), name)
    if repository.current() is None:
        source = FOLDER / name
        prepare_source(source, rows)
        # What `foreshard reshard flights.e000000` does with such a foreshard.yaml.
        settings = {
            "dataset": {
                "name": name,
                "source": {"url": source.as_uri()},
                "target": "late",
                "features": ["dep_delay", "month", "hour", "distance", "carrier", "origin"],
            },
            "store": {"url": url},
            "cluster": {"nodes": [{"name": "node0", "memory": 200_000_000}]},
        }
        print(f"laying out {rows:,} flights in {url} (once)", flush=True)
        chain = Chain(ForeshardConfig.model_validate(settings))
        chain.prepare()
        chain.reshard("flights.e000000")
    return repository


def train_ids(repository: Repository) -> NDArray[np.int64]:
    """Return the sample ids of the train split, ascending: what an order draws from."""
    splits = repository.load_splits(repository.open().header.fingerprint)
    return np.flatnonzero(splits == split_code("train")).astype(np.int64)


def validation_rows(repository: Repository) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Return the design matrix, float32 (n, 28), and target, int8 (n,), of the validation split."""
    table = read_split(repository, repository.open(), "validation", COLUMNS)
    rows = {name: table.column(name).to_numpy() for name in COLUMNS}
    return features(rows), labels(rows)


def print_score(epoch: int, late: NDArray[np.int8], truth: NDArray[np.int8]) -> None:
    """Print how many flights an epoch's model gets right, and how many one would that knows nothing."""
    right, ignorant = (late == truth).mean(), 1 - truth.mean()
    print(f"epoch {epoch}: {right:.1%} of validation flights right; {ignorant:.1%} by always 'on time'", flush=True)


def order_hash(batches: Iterable[NDArray[np.int64]], before: str = "") -> str:
    """Return the SHA-256 of global batches' sample ids, chained: hash after hash, so that it can be taken in parts.

    Args:
        batches: sample ids of one global batch after the other.
        before: the hash of the batches that came before.
    """
    for ids in batches:
        before = hashlib.sha256(before.encode() + ids.astype("<i8").tobytes()).hexdigest()
    return before
