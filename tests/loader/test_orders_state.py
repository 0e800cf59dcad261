"""The loader's state under every order: O(1) size, checked by what the order depends on, with the fix in each error."""

import json

import numpy as np
import pytest
from layouts import make_dataset, publish

from foreshard.errors import ConfigError
from foreshard.loader.options import LoaderOptions
from foreshard.loader.order import (
    BlockShuffleOrder,
    ListedOrder,
    MixtureOrder,
    SequentialOrder,
    UniformOrder,
    WeightedOrder,
)
from foreshard.loader.state import read_state, write_state

OPTIONS = LoaderOptions(16)
IDS = np.arange(0, 300, 2)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return publish(make_dataset(tmp_path_factory.mktemp("state"), 400), 0, seed=1)


def weighted(weight=1.0, **options):
    order = WeightedOrder(IDS, 5, draws=100, **options)
    order.update_weights(IDS[:1], np.array([weight]))
    return order


def saved(order, manifest, epoch=3, step=2, options=OPTIONS):
    """Return a state as it comes back from a file."""
    return json.loads(json.dumps(write_state(order, manifest, options, epoch, step)))


@pytest.mark.parametrize(
    "build",
    [
        lambda: SequentialOrder(IDS),
        lambda: UniformOrder(IDS, 2**70),
        lambda: BlockShuffleOrder(IDS, 1, block=16),
        weighted,
        lambda: weighted(replacement=False),
        lambda: weighted(first_pass=UniformOrder(IDS, 3)),
        lambda: ListedOrder(lambda epoch: IDS[epoch:]),
        lambda: ListedOrder([IDS, IDS[::-1]]),
        lambda: MixtureOrder([UniformOrder(IDS, 1), weighted()], [0.1, 1 / 3], length=90),
    ],
)
def test_a_state_of_every_order_is_small_and_read_again_by_an_equal_order(manifest, build):
    for epoch, step in [(1, 0), (1, 4), (3, 2)]:
        state = saved(build(), manifest, epoch, step)
        assert len(json.dumps(state)) < 1500
        assert read_state(state, build(), manifest, OPTIONS) == (epoch, step)


@pytest.mark.parametrize(
    ("mine", "other", "message"),
    [
        (
            UniformOrder(IDS, 1),
            UniformOrder(IDS, 2),
            r"order.seed 1 for epoch 3, this loader 2; .*: build the order with",
        ),
        (UniformOrder(IDS, 1), UniformOrder(IDS[::-1], 1), "order.population .*: give the order the ids that the run"),
        (UniformOrder(IDS, 1), UniformOrder(IDS[1:], 1), "order.length 150 for epoch 3, this loader 149"),
        (BlockShuffleOrder(IDS, 1), BlockShuffleOrder(IDS, 1, window=9), "order.window 8 .*this loader 9"),
        (weighted(), weighted(replacement=False), "order.replacement True .* this loader False"),
        (weighted(2.0), weighted(), r"order.weights .*: call update_weights with the weights saved beside the state"),
        (ListedOrder(IDS), ListedOrder(IDS[::-1]), "order.ids .*: list the ids that the run was started with"),
        (
            MixtureOrder([UniformOrder(IDS, 1), weighted(2.0)], [1, 2], length=90),
            MixtureOrder([UniformOrder(IDS, 1), weighted()], [1, 2], length=90),
            r"order.components\[1\].weights .*: call update_weights",
        ),
        (
            MixtureOrder([UniformOrder(IDS, 1), weighted()], [1, 2], length=90),
            MixtureOrder([UniformOrder(IDS, 1), weighted()], [1, 3], length=90),
            r"order.ratios\[1\] 2.0 .*this loader 3.0",
        ),
        (UniformOrder(IDS, 1), SequentialOrder(IDS), "has order 'uniform', this loader 'sequential'"),
    ],
)
def test_a_state_of_another_order_is_refused_with_what_differs_and_the_fix(manifest, mine, other, message):
    state = saved(mine, manifest)
    with pytest.raises(ConfigError, match=message):
        read_state(state, other, manifest, OPTIONS)
    assert read_state(state, mine, manifest, OPTIONS) == (3, 2)


def test_weights_matter_from_the_first_epoch_that_draws_by_them(manifest):
    first = {"first_pass": UniformOrder(IDS, 3), "first_epochs": 2}
    state = saved(weighted(7.0, **first), manifest, 2, 1)
    assert read_state(state, weighted(1.0, **first), manifest, OPTIONS) == (2, 1)
    # After the last step of the first pass training goes on in an epoch that draws.
    state = saved(weighted(7.0, **first), manifest, 2, len(IDS) // 16)
    assert (state["epoch"], state["step"]) == (3, 0)
    with pytest.raises(ConfigError, match="call update_weights"):
        read_state(state, weighted(1.0, **first), manifest, OPTIONS)
    assert read_state(state, weighted(7.0, **first), manifest, OPTIONS) == (3, 0)


def test_a_state_of_version_1_is_refused_with_what_to_do(manifest):
    state = {"version": 1, "order": "uniform", "global_batch": 16, "remainder": "drop", "epoch": 4, "step": 1}
    state["fingerprint"] = manifest.header.fingerprint
    with pytest.raises(ConfigError, match=r"version 1, which did not name .* begin its epoch 4 again with set_epoch"):
        read_state(state, UniformOrder(IDS, 1), manifest, OPTIONS)


def test_a_state_without_an_identity_is_refused(manifest):
    state = saved(UniformOrder(IDS, 1), manifest)
    del state["identity"]
    with pytest.raises(ConfigError, match="has order None for epoch 3"):
        read_state(state, UniformOrder(IDS, 1), manifest, OPTIONS)
