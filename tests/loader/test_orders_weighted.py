"""Weighted orders: draws in proportion to changing weights, with and without replacement."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshard.errors import ConfigError
from foreshard.loader.order import UniformOrder, WeightedOrder
from foreshard.loader.orders.sampling import InverseSampler, exponentials, first_of

IDS = np.arange(0, 3000, 3, dtype=np.int64)


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
        ([0], [np.inf], "finite and at least 0; got .*inf"),
        ([0, 3], [1e308, 1e308], "add up to inf; scale them down"),
        (IDS, np.zeros(len(IDS)), "all weights are 0"),
    ],
)
def test_bad_weights_are_refused(ids, weights, message):
    with pytest.raises(ConfigError, match=message):
        WeightedOrder(IDS, 3, draws=10).update_weights(np.array(ids), np.array(weights))


@given(
    weights=st.lists(st.one_of(st.just(0.0), st.floats(1e-300, 1e300), st.floats(0.5, 2)), min_size=1, max_size=300),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=100, deadline=None)
def test_the_guide_table_draws_what_a_binary_search_over_all_samples_finds(weights, seed):
    weights = np.array(weights)
    weights[seed % len(weights)] = 1.0
    numbers = np.random.default_rng(seed).random(200)
    # The numbers at which rounding could go wrong: at the edges of the table, at those of the samples, next to both.
    edges = np.concatenate([np.arange(64) / 64, np.cumsum(weights)[:-1] / weights.sum()])
    edges = np.concatenate([edges, np.nextafter(edges, 0), np.nextafter(edges, 1), [1 - 2.0**-53]])
    numbers = np.concatenate([numbers, edges[(edges >= 0) & (edges < 1)]])
    cumulative = np.cumsum(weights)
    expected = np.searchsorted(cumulative, numbers * cumulative[-1], side="right")
    expected = np.minimum(expected, np.searchsorted(cumulative, cumulative[-1]))
    assert (InverseSampler(weights)(numbers) == expected).all()
    assert (weights[expected] > 0).all()


def test_without_replacement_no_sample_comes_twice_and_none_without_weight():
    order = WeightedOrder(IDS, 3, draws=400, replacement=False)
    order.update_weights(IDS, (IDS % 2).astype(float))
    drawn = order.ids(1, 0, 400)
    assert len(np.unique(drawn)) == 400
    assert (drawn % 2 == 1).all()
    assert len(np.intersect1d(drawn, order.ids(2, 0, 400))) < 380


def test_without_replacement_each_draw_is_in_proportion_to_the_weights_that_are_left():
    weights = np.array([1.0, 2.0, 0.0, 5.0])
    drawn = np.array([first_of(np.random.default_rng(i).random(4), weights, 2) for i in range(20_000)])
    first = np.bincount(drawn[:, 0], minlength=4) / len(drawn)
    assert np.abs(first - weights / 8).max() < 0.015
    second = np.bincount(drawn[drawn[:, 0] == 3, 1], minlength=4) / (drawn[:, 0] == 3).sum()
    assert np.abs(second - np.array([1, 2, 0, 0]) / 3).max() < 0.02


def test_without_replacement_another_weight_or_population_leaves_the_other_samples_in_order():
    order = WeightedOrder(IDS, 3, draws=len(IDS), replacement=False)
    before = order.ids(1, 0, len(IDS))
    order.update_weights(IDS[:1], np.array([50.0]))
    after = order.ids(1, 0, len(IDS))
    assert (before != after).any()
    assert (before[before != IDS[0]] == after[after != IDS[0]]).all()
    half = WeightedOrder(IDS[::2], 3, draws=len(IDS) // 2, replacement=False)
    assert (half.ids(1, 0, len(IDS) // 2) == before[np.isin(before, IDS[::2])]).all()


def test_without_replacement_weights_far_apart_are_drawn_in_their_order():
    weights = np.array([5e-324, 1e-300, 1.0, 1e300, 0.0])
    assert first_of(np.full(5, 0.5), weights, 4).tolist() == [3, 2, 1, 0]
    assert first_of(np.zeros(5), weights, 4).tolist() == [0, 1, 2, 3]


def test_without_replacement_more_draws_than_samples_with_weight_are_refused():
    with pytest.raises(ConfigError, match=r"1001 draws without replacement need as many .* there are 1000"):
        WeightedOrder(IDS, 3, draws=1001, replacement=False)
    order = WeightedOrder(IDS, 3, draws=999, replacement=False)
    with pytest.raises(ConfigError, match="there are 998"):
        order.update_weights(IDS[:2], np.zeros(2))
    assert (order.weights == 1).all()


def test_exponentials_are_the_logarithm_to_the_last_digits():
    numbers = np.concatenate([np.random.default_rng(1).random(10_000), [0.0, 2.0**-53, 0.5, 1 - 2.0**-53]])
    assert np.allclose(exponentials(numbers), -np.log1p(-numbers), rtol=1e-15, atol=0)
    # Bit for bit the same on every processor and with every numpy: golden values.
    assert [x.hex() for x in exponentials(np.array([0.1, 0.3, 0.5, 0.9])).tolist()] == EXPONENTIALS


def test_weights_are_changed_by_update_weights_alone():
    order = WeightedOrder(IDS, 3, draws=10)
    with pytest.raises(ValueError, match="read-only"):
        order.weights[0] = 2.0
    with pytest.raises(ConfigError, match="sample id 1 is not in the order's population"):
        order.probabilities(np.array([1]))


EXPONENTIALS = ["0x1.af8e8210a415bp-4", "0x1.6d3c324e13f4fp-2", "0x1.62e42fefa39efp-1", "0x1.26bb1bbb55516p+1"]
