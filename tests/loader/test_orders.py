"""Sample orders: permutations with random access, weighted draws, and golden vectors that pin them."""

import pickle
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshard.errors import ConfigError
from foreshard.loader.dealing import Place, batch_sizes, deal, epoch_steps
from foreshard.loader.feistel import IndexPermutation
from foreshard.loader.order import (
    BlockShuffleOrder,
    ListedOrder,
    MixtureOrder,
    SequentialOrder,
    UniformOrder,
    WeightedOrder,
    shuffle_quality,
)
from foreshard.seeding import derive_seed

IDS = np.arange(0, 3000, 3, dtype=np.int64)


@given(n=st.integers(1, 5000), seed=st.integers(0, 2**40))
@settings(max_examples=60, deadline=None)
def test_index_permutation_is_a_permutation(n, seed):
    permutation = IndexPermutation(derive_seed(root=seed), n)
    image = permutation(np.arange(n))
    assert (np.sort(image) == np.arange(n)).all()
    few = np.arange(0, n, max(n // 7, 1))
    assert (permutation(few) == image[few]).all()  # by walking where all were taken from a table


@pytest.mark.parametrize(
    "order", [UniformOrder(IDS, 1), BlockShuffleOrder(IDS, 1, block=64, window=3), SequentialOrder(IDS)]
)
def test_each_sample_is_seen_once_per_epoch(order):
    for epoch in (1, 2):
        assert (np.sort(order.ids(epoch, 0, order.length(epoch))) == IDS).all()


def all_orders():
    once = WeightedOrder(IDS, 2, draws=700, replacement=False)
    once.update_weights(IDS, 1.0 + IDS % 5)
    small = UniformOrder(IDS[:70], 3)
    return [
        UniformOrder(IDS, 1),
        BlockShuffleOrder(IDS, 1, block=50, window=4),
        SequentialOrder(IDS),
        WeightedOrder(IDS, 2, draws=1200),
        once,
        ListedOrder(lambda epoch: IDS[:500] + epoch),
        MixtureOrder([UniformOrder(IDS, 1), small, once], [5, 1.5, 3], length=1100),
    ]


@given(cuts=st.lists(st.floats(0, 1), max_size=6), which=st.integers(0, 6), epoch=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_random_access_agrees_with_reading_the_whole_epoch(cuts, which, epoch):
    order = all_orders()[which]
    length = order.length(epoch)
    edges = [0, *sorted(int(cut * length) for cut in cuts), length]
    parts = [all_orders()[which].ids(epoch, a, b) for a, b in pairwise(edges)]
    whole = order.ids(epoch, 0, length)
    assert whole.dtype == np.int64
    assert len(whole) == length
    assert (np.concatenate(parts) == whole).all()


def test_only_orders_without_weights_are_fixed_for_later_epochs():
    assert [order.fixed for order in all_orders()] == [True, True, True, False, False, False, False]
    assert ListedOrder(lambda _epoch: IDS, fixed=True).fixed
    assert ListedOrder(IDS).fixed
    assert MixtureOrder([SequentialOrder(3), ListedOrder(4)], [1, 1], length=5).fixed


def test_orders_reach_a_spawned_process_by_pickle():
    for order in all_orders():
        if order.name != "listed":
            assert (pickle.loads(pickle.dumps(order)).ids(2, 0, 50) == order.ids(2, 0, 50)).all()  # noqa: S301


# -- populations --------------------------------------------------------------------------------------
@given(
    start=st.integers(-50, 50), step=st.integers(1, 9), n=st.integers(1, 300), dtype=st.sampled_from(["i2", "i8", "u8"])
)
@settings(max_examples=40, deadline=None)
def test_a_range_and_its_array_are_one_population(start, step, n, dtype):
    start = abs(start) if dtype == "u8" else start
    ids = range(start, start + n * step, step)
    for build in (UniformOrder, lambda p, s: WeightedOrder(p, s, draws=20), lambda p, _s: SequentialOrder(p)):
        one, other = build(ids, 4), build(np.array(ids, dtype), 4)
        assert (one.ids(2, 0, min(n, 20)) == other.ids(2, 0, min(n, 20))).all()
        assert one.identity(2) == other.identity(2)


def test_an_array_with_one_id_changed_is_another_population():
    ids = np.arange(0, 4_000_000, 2)
    other = ids.copy()
    other[1_500_000] += 1
    one, two = UniformOrder(ids, 1), UniformOrder(other, 1)
    assert one.identity(1)["population"] != two.identity(1)["population"]
    assert (SequentialOrder(other).ids(1, 1_499_999, 1_500_002) == other[1_499_999:1_500_002]).all()


def test_a_billion_samples_take_no_memory():
    tracemalloc.start()
    for order in (
        UniformOrder(10**9, 1),
        UniformOrder(np.arange(10**6), 1),
        BlockShuffleOrder(range(5, 10**9), 1),
        SequentialOrder(10**9),
        MixtureOrder([UniformOrder(10**9, 1), SequentialOrder(10**8)], [3, 1], length="shortest"),
    ):
        assert len(order.ids(2, 900_000, 901_000)) == 1000
        assert len(order.identity(2)["name"]) > 0
        del order
    held, _peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 200_000


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.empty(0, np.int64), "split is empty"),
        (0, "split is empty"),
        (range(0), "split is empty"),
        (np.ones(5, bool), r"type bool; give one row of integers \(for a mask"),
        (np.ones(5), "type float64"),
        (np.ones((2, 3), np.int64), r"shape \(2, 3\)"),
        (True, "type bool"),
    ],
)
def test_a_population_that_is_no_list_of_ids_is_refused(ids, message):
    with pytest.raises(ConfigError, match=message):
        UniformOrder(ids, 1)


# -- listed ids ---------------------------------------------------------------------------------------
def test_listed_ids_come_as_given_from_an_array_a_list_of_arrays_or_a_function():
    ids = np.array([5, 3, 3, 9])
    assert ListedOrder(ids).ids(7, 1, 3).tolist() == [3, 3]
    assert ListedOrder([5, 3, 3, 9]).ids(7, 0, 4).tolist() == [5, 3, 3, 9]
    lists = ListedOrder([ids, range(3)])
    assert [lists.ids(epoch, 0, lists.length(epoch)).tolist() for epoch in (1, 2, 3)] == [
        [5, 3, 3, 9],
        [0, 1, 2],
        [*ids],
    ]
    calls = []
    called = ListedOrder(lambda epoch: (calls.append(epoch), range(epoch))[1])
    for epoch in (1, 1, 2, 1, 2, 3, 2, 3):
        assert called.ids(epoch, 0, called.length(epoch)).tolist() == list(range(epoch))
    assert calls == [1, 2, 3]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "ids listed for every epoch cannot be read: there are none; list one"),
        ([range(3), np.ones(3)], "ids listed for epoch 2 cannot be read: .* type float64"),
        ([4, -2], "sample id -2 is listed for every epoch; ids count from 0"),
        (lambda _epoch: [3, -1], "sample id -1 is listed for epoch 3"),
    ],
)
def test_lists_that_cannot_be_read_are_refused_by_epoch(source, message):
    with pytest.raises(ConfigError, match=message):
        ListedOrder(source).length(3)


# -- shuffle quality ----------------------------------------------------------------------------------
def test_shuffle_quality_is_one_for_a_uniform_shuffle_and_zero_in_sequence():
    uniform, sequence = shuffle_quality(UniformOrder(10**9, 1), 1), shuffle_quality(SequentialOrder(10**9), 1)
    assert abs(uniform.neighbour_distance - 1) < 0.03
    assert abs(uniform.batch_diversity - 1) < 0.2
    assert max(sequence.neighbour_distance, sequence.batch_diversity) < 1e-3


def test_shuffle_quality_tells_narrow_windows_from_wide_ones():
    figures = [
        shuffle_quality(BlockShuffleOrder(10**6, 1, block=1024, window=window), 1).batch_diversity
        for window in (2, 16, 128)
    ]
    assert figures[0] < 0.06
    assert 0.15 < figures[1] < 0.35
    assert figures[2] > 0.55


def test_shuffle_quality_of_equal_ids_is_zero_and_short_epochs_are_refused():
    assert shuffle_quality(ListedOrder(np.full(500, 7)), 1).batch_diversity == 0
    with pytest.raises(ConfigError, match="epoch of 100 samples is too short for batches of 64"):
        shuffle_quality(UniformOrder(100, 1), 1)
    with pytest.raises(ConfigError, match="batch 1 and batches 9 must be at least 2"):
        shuffle_quality(UniformOrder(100, 1), 1, batch=1, batches=9)


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


def test_golden_orders_do_not_change():
    ids = np.arange(1000, dtype=np.int64)
    weighted = WeightedOrder(ids, 42, draws=1000)
    weighted.update_weights(ids, 1.0 + ids % 7)
    once = WeightedOrder(ids, 42, draws=500, replacement=False)
    once.update_weights(ids, 1.0 + ids % 7)
    parts = [UniformOrder(range(600), 1), UniformOrder(range(600, 1000), 2), SequentialOrder(50)]
    mixture = MixtureOrder(parts, [0.5, 0.3, 0.2], length=700)
    assert UniformOrder(ids, 42).ids(3, 0, 6).tolist() == GOLDEN["uniform"]
    assert BlockShuffleOrder(ids, 42, block=32, window=4).ids(3, 0, 6).tolist() == GOLDEN["block_shuffle"]
    assert weighted.ids(3, 0, 6).tolist() == GOLDEN["weighted"]
    assert once.ids(3, 0, 6).tolist() == GOLDEN["weighted_once"]
    assert mixture.ids(3, 0, 8).tolist() == GOLDEN["mixture"]


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


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("length", [128, 141, 129, 13])
def test_a_kept_remainder_is_dealt_evenly_too(world, length):
    steps, positions = np.divmod(np.arange(length), 64)
    sizes = batch_sizes(steps, length, 64, "keep")
    masks = [deal(positions, None, sizes, 1, Place(rank, world)) for rank in range(world)]
    assert (np.sum(masks, axis=0) == 1).all()
    shares = np.array([np.bincount(steps[mask], minlength=steps[-1] + 1) for mask in masks])
    assert (np.ptp(shares, axis=0) <= 1).all()


@pytest.mark.parametrize("remainder", ["drop", "pad"])
def test_a_remainder_that_is_not_kept_leaves_no_short_batch(remainder):
    assert np.unique(batch_sizes(np.arange(3), 141, 64, remainder)).tolist() == [64]


def test_steps_follow_the_remainder_policy():
    assert [epoch_steps(100, 30, policy) for policy in ("drop", "keep", "pad")] == [3, 4, 4]
    with pytest.raises(ConfigError, match="global batch 101 is larger than the epoch's 100 samples"):
        epoch_steps(100, 101, "drop")


GOLDEN = {
    "uniform": [764, 821, 669, 641, 887, 840],
    "block_shuffle": [101, 935, 646, 112, 340, 322],
    "weighted": [608, 874, 608, 684, 201, 375],
    "weighted_once": [419, 612, 655, 397, 300, 471],
    "mixture": [207, 942, 185, 30, 200, 653, 140, 31],
}
