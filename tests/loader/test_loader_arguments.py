"""What users give by mistake is refused where they give it, by name, value and remedy; NumPy's numbers are none."""

import json
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from layouts import make_dataset, publish

from foreshard.errors import ConfigError, ObjectNotFoundError
from foreshard.loader.dealing import Place
from foreshard.loader.described import LoaderDescription
from foreshard.loader.epochs import mark_epoch
from foreshard.loader.loader import Loader
from foreshard.loader.options import DiskTier, LoaderOptions, Logging
from foreshard.loader.order import (
    BlockShuffleOrder,
    ListedOrder,
    MixtureOrder,
    SequentialOrder,
    UniformOrder,
    WeightedOrder,
    shuffle_quality,
)
from foreshard.loader.reading import read_split
from foreshard.prefetch.prometheus import write_prometheus
from foreshard.shards.repository import Repository

N = np.int64
ORDERS = {
    "uniform": lambda n: UniformOrder(90, n(3)),
    "block": lambda n: BlockShuffleOrder(90, n(3), block=n(8), window=n(2)),
    "weighted": lambda n: WeightedOrder(90, n(3), draws=n(40), first_pass=SequentialOrder(90), first_epochs=n(1)),
    "once": lambda n: WeightedOrder(90, n(3), draws=n(40), replacement=False),
    "mixture": lambda n: MixtureOrder([UniformOrder(90, n(3)), SequentialOrder(9)], [n(2), n(1)], length=n(60)),
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    data = make_dataset(tmp_path_factory.mktemp("arguments"), 200)
    publish(data, 0, seed=1)
    return data


@pytest.mark.parametrize("kind", ORDERS)
def test_an_order_by_numpy_numbers_is_that_by_python_numbers(kind):
    plain, order = ORDERS[kind](int), ORDERS[kind](N)
    for epoch in (1, 2):
        assert json.dumps(order.identity(epoch)) == json.dumps(plain.identity(epoch))
        assert type(order.length(epoch)) is int
        assert (order.ids(epoch, 0, 40) == plain.ids(epoch, 0, 40)).all()


def test_a_state_by_numpy_numbers_is_one_of_plain_ones(dataset):
    order = WeightedOrder(dataset.train_ids, N(1), draws=N(64))
    options = LoaderOptions(N(8), place=Place(N(0), N(1)), memory=N(8000), queue_batches=N(2), timeout=np.float32(20))
    loader = Loader(dataset.repository, order, options)
    next(iter(loader))
    assert json.loads(json.dumps(loader.state_dict()))["global_batch"] == 8
    assert b"numpy" not in pickle.dumps(loader.state_dict())
    loader.close()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UniformOrder(9, 1.5), "seed 1.5 is of type float; give an integer, such as 1"),
        (lambda: UniformOrder(9, None), "seed None is of type NoneType"),
        (lambda: BlockShuffleOrder(9, "a"), "seed 'a' is of type str"),
        (lambda: BlockShuffleOrder(9, 1, block=8.0), "block 8.0 is of type float; give an integer, such as 8"),
        (lambda: BlockShuffleOrder(9, 1, window=0), "window 0 must be at least 1"),
        (lambda: WeightedOrder(9, 1, draws=4.5), "draws 4.5 is of type float; give an integer, such as 4"),
        (lambda: WeightedOrder(9, 1, draws=0), "draws 0 must be at least 1"),
        (lambda: WeightedOrder(9, 1, draws=4, first_epochs=1.5), "first_epochs 1.5 is of type float"),
        (lambda: MixtureOrder([SequentialOrder(9)], [1], length=9.0), "length 9.0 is of type float"),
        (lambda: MixtureOrder([SequentialOrder(9)], ["1"], length=9), "ratio '1' is of type str; give a number"),
        (lambda: shuffle_quality(SequentialOrder(9000), 1.0), "epoch 1.0 is of type float"),
        (lambda: Place(0.0, 1), "rank 0.0 is of type float"),
        (lambda: Place("0", 1), "rank '0' is of type str"),
        (lambda: Logging("run", "w", phases=4.0), "phases 4.0 is of type float"),
        (lambda: Logging(1, "w"), "run name 1 is of type int; give a str"),
        (lambda: DiskTier("tier", 1e5), "nbytes 100000.0 is of type float; give an integer, such as 100000"),
        (lambda: DiskTier("tier", 0), "'tier': nbytes 0 must be at least 1"),
        (lambda: DiskTier(None, 10), "needs a folder, not None"),
        (lambda: LoaderOptions(64.0), "global_batch 64.0 is of type float; give an integer, such as 64"),
        (lambda: LoaderOptions(0), "global_batch 0 must be at least 1"),
        (lambda: LoaderOptions(64, memory=1e6), "memory 1000000.0 is of type float"),
        (lambda: LoaderOptions(64, memory=0), "memory 0 must be at least 1"),
        (lambda: LoaderOptions(64, queue_batches=1.0), "queue_batches 1.0 is of type float"),
        (lambda: LoaderOptions(64, timeout="60"), "timeout '60' is of type str; give a number"),
        (lambda: LoaderOptions(64, timeout=float("nan")), "timeout nan must be above 0 and finite"),
        (lambda: LoaderOptions(64, lease_ttl=None), "lease_ttl None is of type NoneType"),
        (lambda: LoaderOptions(64, place=(0, 1)), r"place \(0, 1\) is of type tuple; give a Place"),
        (lambda: LoaderOptions(64, logging="run"), "logging 'run' is of type str; give a Logging"),
        (lambda: LoaderOptions(64, disk="tier"), "disk 'tier' is of type str; give a DiskTier"),
        (lambda: LoaderOptions(64, columns="value"), r"columns 'value' is one name; give .* \('value',\)"),
        (lambda: LoaderOptions(64, columns=("value", 3)), "columns has 3, of type int"),
    ],
)
def test_a_wrong_argument_is_refused_where_it_is_given(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


MISTAKES = {
    "ids for an order": (lambda about: about.load(order=about.ids), "order is of type ndarray.*ListedOrder"),
    "a class for an order": (lambda about: about.load(order=UniformOrder), "order is the class UniformOrder"),
    "a dict for options": (
        lambda about: about.load(options={"global_batch": 8}),
        "options is of type dict; give Loader",
    ),
    "ids for a component": (
        lambda about: MixtureOrder([about.ids], [1], length=9),
        "component 0 is of type ndarray, which is no order",
    ),
    "ids for a first pass": (
        lambda about: WeightedOrder(about.ids, 1, draws=9, first_pass=about.ids),
        "first_pass is of type ndarray",
    ),
    "a layout of no form": (lambda about: about.load(layout="demo"), "'demo' is not '<run>.e<epoch>'"),
    "a number for a layout": (lambda about: about.repository.open(7), "layout 7 is of type int; give a LayoutRef"),
    "part of a digest": (lambda about: about.load(layout="demo.e000000/a9"), "digest 'a9' is not 16 to 64"),
    "ids that are floats": (
        lambda about: WeightedOrder(about.ids, 1, draws=9).probabilities(about.ids[:2] + 0.5),
        "sample ids have the type float64, the first is [0-9]+.5; give integers",
    ),
    "a mask for ids": (
        lambda about: WeightedOrder(about.ids, 1, draws=9).probabilities(about.ids > 5),
        r"type bool.*np.flatnonzero\(mask\)",
    ),
    "an epoch without ids": (
        lambda about: about.load(order=ListedOrder([about.ids, []])),
        "the ids listed for epoch 2 cannot be read: there are none; list one for epoch 2 at least",
    ),
    "no ids at all": (lambda about: about.load(order=ListedOrder([])), "there are none; list one for every epoch"),
    "one name for columns": (
        lambda about: read_split(about.repository, about.repository.open(), "test", "value"),
        "columns 'value' is one name",
    ),
    "a report of nothing": (
        lambda about: mark_epoch(about.repository, Logging("run", "w"), [None]),
        "report 0 is None; give Loader.last_epoch of every rank",
    ),
    "no list of reports": (
        lambda about: mark_epoch(about.repository, Logging("run", "w"), None),
        r"reports is of type NoneType; give a list, \[loader.last_epoch\]",
    ),
    "a run for its logging": (
        lambda about: mark_epoch(about.repository, "run", []),
        "settings is of type str; give the",
    ),
    "a label that is no text": (
        lambda about: about.load().prometheus({"run": None}),
        "label 'run' has the value None; give text",
    ),
    "a label whose name is none": (lambda about: about.load().prometheus({1: "a"}), "label 1 has the value 'a'"),
}


@dataclass
class About:
    """What a mistake is made with."""

    repository: Repository
    ids: np.ndarray

    def load(self, order=None, options=None, **settings):
        """Open a loader."""
        order = UniformOrder(self.ids, 1) if order is None else order
        return Loader(self.repository, order, options or LoaderOptions(8), **settings)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_by_what_was_given_and_what_to_give(dataset, mistake):
    make, message = MISTAKES[mistake]
    with pytest.raises(ConfigError, match=message):
        make(About(dataset.repository, dataset.train_ids))


def test_a_loader_for_other_processes_is_refused_the_same_before_it_is_sent(dataset):
    with pytest.raises(ConfigError, match="order is of type ndarray"):
        LoaderDescription(dataset.repository, dataset.train_ids, LoaderOptions(8), "train", None)


def test_a_layout_is_taken_by_its_text(tmp_path):
    data = make_dataset(tmp_path, 200)
    publish(data, 0, seed=1)
    repository, order = data.repository, UniformOrder(data.train_ids, 1)
    [ref] = repository.layouts("demo.e000000")
    assert repository.open("demo.e000000").ref == repository.open(str(ref)).ref == ref
    assert repository.publish(str(ref)).current.ref == ref
    for lease_ttl in (0, 60):
        loader = Loader(repository, order, LoaderOptions(8, lease_ttl=lease_ttl), layout="demo.e000000")
        assert loader.layout == ref
        assert not loader.refresh(str(ref))
        loader.close()
    with pytest.raises(ObjectNotFoundError, match=r"generation 'demo\.e000009' has no committed layout in file:"):
        repository.open("demo.e000009")
    publish(data, 0, seed=2)
    with pytest.raises(ConfigError, match=r"'demo\.e000000' has 2 layouts; give one of demo.e000000/"):
        repository.open("demo.e000000")


def test_labels_and_files_are_taken_as_they_come(dataset, tmp_path):
    loader = About(dataset.repository, dataset.train_ids).load()
    assert 'rank="0"' in loader.prometheus({"rank": 0})
    assert 'rank="1"' in loader.prometheus({"rank": N(1)})
    write_prometheus(str(tmp_path / "a.prom"), loader.monitor.snapshot())
    assert (tmp_path / "a.prom").read_text() == loader.prometheus()


def test_what_means_the_same_is_taken():
    assert DiskTier(Path("tier"), N(10)) == DiskTier("tier", 10)
    assert LoaderOptions(N(64), columns=["value"]) == LoaderOptions(64, columns=("value",))
    assert hash(LoaderOptions(64, columns=["value"])) == hash(LoaderOptions(64, columns=("value",)))
