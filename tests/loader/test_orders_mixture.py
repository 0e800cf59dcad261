"""Mixtures of orders: exact ratios at every place, each component through its own epochs."""

from fractions import Fraction
from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshard.errors import ConfigError
from foreshard.loader.order import ListedOrder, MixtureOrder, SequentialOrder, UniformOrder, WeightedOrder
from foreshard.loader.orders.interleave import Interleaving

ratios = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=9)


@given(ratios=ratios)
@settings(max_examples=60, deadline=None)
def test_every_component_keeps_to_its_share_at_every_place(ratios):
    which = Interleaving(ratios).components_at(np.arange(3000))
    counts = np.cumsum(which[:, None] == np.arange(len(ratios)), axis=0)
    share = np.array(ratios) / np.sum(ratios)
    behind = np.abs(counts - np.arange(1, 3001)[:, None] * share)
    assert behind.max() <= (1 + log2(len(ratios))) / 2 + 1e-5


@given(ratios=ratios, start=st.one_of(st.integers(0, 10_000), st.integers(2**33, 2**61)))
@settings(max_examples=60, deadline=None)
def test_a_place_is_found_without_those_before_it(ratios, start):
    places = Interleaving(ratios)
    which = places.components_at(np.arange(start, start + 500))
    before, after = places.counts(start), places.counts(start + 500)
    assert sum(before) == start
    assert (np.bincount(which, minlength=len(ratios)) == np.subtract(after, before)).all()


@given(ratios=ratios, count=st.integers(1, 10_000), which=st.integers(0, 8))
@settings(max_examples=60, deadline=None)
def test_the_place_at_which_a_component_is_exhausted_is_exact(ratios, count, which):
    places, which = Interleaving(ratios), which % len(ratios)
    end = places.exhausts(which, count)
    assert places.counts(end)[which] == count
    assert places.counts(end - 1)[which] == count - 1


def test_two_components_alternate_by_largest_deficit():
    assert Interleaving([1, 1]).components_at(np.arange(6)).tolist() == [0, 1, 0, 1, 0, 1]
    which = Interleaving([0.3, 0.7]).components_at(np.arange(1000)).tolist()
    counts = [0, 0]
    for place, component in enumerate(which):
        deficits = [Fraction(3, 10) * (place + 1) - counts[0], Fraction(7, 10) * (place + 1) - counts[1]]
        assert deficits[component] >= deficits[1 - component]
        counts[component] += 1


def test_each_component_runs_through_its_own_epochs_across_those_of_the_mixture():
    parts = [UniformOrder(range(100), 1), UniformOrder(range(100, 117), 2), ListedOrder([[200, 201, 202], [203]])]
    mixture = MixtureOrder(parts, [6, 3, 0.5], length=150)
    ids = np.concatenate([mixture.ids(epoch, 0, 150) for epoch in range(1, 5)])
    for i, (low, high) in enumerate([(0, 100), (100, 117), (200, 204)]):
        seen = ids[(ids >= low) & (ids < high)]
        own = np.concatenate([parts[i].ids(epoch, 0, parts[i].length(epoch)) for epoch in range(1, 40)])
        assert (seen == own[: len(seen)]).all()
        assert abs(len(seen) - 600 * [6, 3, 0.5][i] / 9.5) <= 2
    assert (mixture.components(2, 0, 150) == np.digitize(mixture.ids(2, 0, 150), [100, 200])).all()


def test_the_length_follows_the_named_policy():
    parts = [SequentialOrder(100), SequentialOrder(range(100, 130))]
    shortest = MixtureOrder(parts, [0.5, 0.5], length="shortest")
    assert shortest.length(1) == 60
    assert (shortest.ids(1, 0, 60) >= 100).sum() == 30
    longest = MixtureOrder(parts, [0.5, 0.5], length="longest")
    assert longest.length(3) == 199
    assert len(np.unique(longest.ids(1, 0, 199))) == 130


def test_a_component_of_a_very_small_ratio_still_appears():
    mixture = MixtureOrder([UniformOrder(10**9, 1), SequentialOrder(range(10**9, 10**9 + 5))], [1, 1e-30], length=2**40)
    assert mixture.ids(1, 0, 5).max() < 10**9
    assert mixture.ids(1, 2**31 - 2, 2**31 + 2).max() == 10**9


def test_a_mixture_of_mixtures_is_an_order_too():
    inner = MixtureOrder([SequentialOrder(5), SequentialOrder(range(10, 15))], [1, 1], length="longest")
    outer = MixtureOrder([inner, SequentialOrder(range(20, 25))], [2, 1], length=15)
    assert np.sort(outer.ids(1, 0, 15)).tolist() == [*range(5), *range(10, 15), *range(20, 25)]
    assert outer.identity(1)["components"][0]["components"][1]["name"] == "sequential"


def test_weights_reach_a_mixture_through_its_component():
    weighted = WeightedOrder(100, 1, draws=50)
    mixture = MixtureOrder([weighted, SequentialOrder(range(100, 200))], [1, 1], length=100)
    before = mixture.identity(1)
    weighted.update_weights(np.arange(100), np.arange(100) == 42)
    drawn = mixture.ids(2, 0, 100)
    assert set(drawn[drawn < 100].tolist()) == {42}
    assert mixture.identity(1) != before


@pytest.mark.parametrize(
    ("ratios", "length", "message"),
    [
        ([1], 5, "2 components have 1 ratios"),
        ([1, 0], 5, "ratio 0 must be above 0"),
        ([1, np.nan], 5, "ratio nan must be above 0"),
        ([1, np.inf], 5, "ratio inf must be above 0"),
        ([1, 1], 0, "length 0 must be in"),
        ([1, 1], "half", "length 'half' is unknown; give a number of ids, 'shortest' or 'longest'"),
    ],
)
def test_mixtures_that_cannot_be_made_are_refused(ratios, length, message):
    with pytest.raises(ConfigError, match=message):
        MixtureOrder([SequentialOrder(3), SequentialOrder(3)], ratios, length=length)
    with pytest.raises(ConfigError, match="0 components"):
        MixtureOrder([], [], length=3)
