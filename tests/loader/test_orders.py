"""Sample orders: permutations with random access, weighted draws, and golden vectors that pin them."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshard.errors import ConfigError
from foreshard.loader.dealing import Place, deal, epoch_steps
from foreshard.loader.feistel import IndexPermutation
from foreshard.loader.order import BlockShuffleOrder, SequentialOrder, UniformOrder, WeightedOrder
from foreshard.seeding import derive_seed

IDS = np.arange(0, 3000, 3, dtype=np.int64)


@given(n=st.integers(1, 5000), seed=st.integers(0, 2**40))
@settings(max_examples=60, deadline=None)
def test_index_permutation_is_a_permutation(n, seed):
    image = IndexPermutation(derive_seed(root=seed), n)(np.arange(n))
    assert (np.sort(image) == np.arange(n)).all()


@pytest.mark.parametrize(
    "order", [UniformOrder(IDS, 1), BlockShuffleOrder(IDS, 1, block=64, window=3), SequentialOrder(IDS)]
)
def test_each_sample_is_seen_once_per_epoch(order):
    for epoch in (1, 2):
        assert (np.sort(order.ids(epoch, 0, order.length(epoch))) == IDS).all()


@given(cuts=st.lists(st.integers(0, len(IDS)), max_size=6), which=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_random_access_agrees_with_reading_the_whole_epoch(cuts, which):
    weighted = WeightedOrder(IDS, 2, draws=len(IDS))
    order = [UniformOrder(IDS, 1), BlockShuffleOrder(IDS, 1, block=50, window=4), SequentialOrder(IDS), weighted][which]
    edges = [0, *sorted(cuts), len(IDS)]
    parts = [order.ids(2, a, b) for a, b in pairwise(edges)]
    assert (np.concatenate(parts) == order.ids(2, 0, len(IDS))).all()


def test_epochs_and_seeds_give_different_orders():
    uniform = UniformOrder(IDS, 1)
    assert (uniform.ids(1, 0, 1000) != uniform.ids(2, 0, 1000)).mean() > 0.9
    assert (uniform.ids(1, 0, 1000) != UniformOrder(IDS, 2).ids(1, 0, 1000)).mean() > 0.9


def test_uniform_order_spreads_every_sample_over_all_positions():
    first = np.array([UniformOrder(np.arange(8), seed).ids(1, 0, 1)[0] for seed in range(4000)])
    counts = np.bincount(first, minlength=8)
    assert ((counts - 500) ** 2 / 500).sum() < 24.3  # chi-square, 7 degrees of freedom, p = 0.001


def test_block_shuffle_keeps_each_window_within_few_blocks():
    order = BlockShuffleOrder(np.arange(1000), 4, block=20, window=5)
    for start in range(0, 1000, 100):
        assert len(np.unique(order.ids(1, start, start + 100) // 20)) == 5


def test_weighted_order_draws_in_proportion_to_the_weights():
    order = WeightedOrder(np.arange(4), 3, draws=40_000)
    order.update_weights(np.arange(4), np.array([1.0, 2.0, 0.0, 5.0]))
    share = np.bincount(order.ids(1, 0, 40_000), minlength=4) / 40_000
    assert np.abs(share - np.array([1, 2, 0, 5]) / 8).max() < 0.01
    assert share[2] == 0
    assert order.probabilities(np.array([3]))[0] == 5 / 8


def test_weighted_order_begins_with_a_full_pass():
    order = WeightedOrder(IDS, 3, draws=10, first_pass=UniformOrder(IDS, 3))
    assert (np.sort(order.ids(1, 0, order.length(1))) == IDS).all()
    assert order.length(2) == 10


@pytest.mark.parametrize(
    ("ids", "weights", "message"),
    [
        ([1], [1.0], "sample id 1 is not in the order's population"),
        ([0], [-1.0], "finite and at least 0"),
        ([0], [np.nan], "finite and at least 0"),
        (IDS, np.zeros(len(IDS)), "all weights are 0"),
    ],
)
def test_bad_weights_are_refused(ids, weights, message):
    with pytest.raises(ConfigError, match=message):
        WeightedOrder(IDS, 3, draws=10).update_weights(np.array(ids), np.array(weights))


def test_an_empty_split_is_refused_by_name():
    with pytest.raises(ConfigError, match="split is empty"):
        UniformOrder(np.empty(0, np.int64), 1)


def test_golden_orders_do_not_change():
    ids = np.arange(1000, dtype=np.int64)
    weighted = WeightedOrder(ids, 42, draws=1000)
    weighted.update_weights(ids, 1.0 + ids % 7)
    assert UniformOrder(ids, 42).ids(3, 0, 6).tolist() == GOLDEN["uniform"]
    assert BlockShuffleOrder(ids, 42, block=32, window=4).ids(3, 0, 6).tolist() == GOLDEN["block_shuffle"]
    assert weighted.ids(3, 0, 6).tolist() == GOLDEN["weighted"]


@given(
    world=st.integers(1, 9),
    nodes=st.integers(1, 5),
    batch=st.integers(1, 64),
    owner=st.booleans(),
    seed=st.integers(0, 99),
)
def test_dealing_gives_every_sample_to_exactly_one_rank(world, nodes, batch, owner, seed):
    positions = np.arange(batch)
    owners = np.random.default_rng(seed).integers(0, nodes, batch).astype(np.int32) if owner else None
    masks = [deal(positions, owners, batch, nodes, Place(rank, world)) for rank in range(world)]
    assert (np.sum(masks, axis=0) == 1).all()


def test_dealing_by_position_is_even():
    sizes = [deal(np.arange(64), None, 64, 1, Place(rank, 4)).sum() for rank in range(4)]
    assert sizes == [16] * 4


def test_steps_follow_the_remainder_policy():
    assert [epoch_steps(100, 30, policy) for policy in ("drop", "keep", "pad")] == [3, 4, 4]
    with pytest.raises(ConfigError, match="global batch 101 is larger than the epoch's 100 samples"):
        epoch_steps(100, 101, "drop")


GOLDEN = {
    "uniform": [764, 821, 669, 641, 887, 840],
    "block_shuffle": [101, 935, 646, 112, 340, 322],
    "weighted": [608, 874, 608, 684, 201, 375],
}
