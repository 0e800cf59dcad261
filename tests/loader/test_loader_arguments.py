"""What users give by mistake is refused where they give it, by name, value and remedy; NumPy's numbers are none."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from layouts import make_dataset, publish

from foreshard.errors import ConfigError
from foreshard.loader.dealing import Place
from foreshard.loader.loader import Loader
from foreshard.loader.options import DiskTier, LoaderOptions, Logging
from foreshard.loader.order import (
    BlockShuffleOrder,
    MixtureOrder,
    SequentialOrder,
    UniformOrder,
    WeightedOrder,
    shuffle_quality,
)

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


def test_what_means_the_same_is_taken():
    assert DiskTier(Path("tier"), N(10)) == DiskTier("tier", 10)
    assert LoaderOptions(N(64), columns=["value"]) == LoaderOptions(64, columns=("value",))
    assert hash(LoaderOptions(64, columns=["value"])) == hash(LoaderOptions(64, columns=("value",)))
