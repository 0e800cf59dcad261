"""Scores are those of the text books, do not depend on what they must not, and rank a better forecast higher."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from foreshard.errors import ConfigError
from foreshard.forecast.metrics import (
    brier,
    brier_skill,
    calibration_error,
    depth_of,
    hit_mass,
    log_loss,
    ndcg_at,
    precision_at,
    relative_error,
    top,
)

some_counts = hnp.arrays(np.float64, st.just(12), elements=st.integers(0, 50).map(float))
fractions = st.floats(0.01, 1)
probabilities = hnp.arrays(np.float64, st.just(40), elements=st.floats(0, 1))
outcomes = hnp.arrays(np.bool_, st.just(40))


# -- ranks ---------------------------------------------------------------------------------------------


def plain_ndcg(expected, actual, k):
    ranked = sorted(range(len(expected)), key=lambda c: (-expected[c], c))[:k]
    gain = sum(actual[c] / np.log2(rank + 2) for rank, c in enumerate(ranked))
    ideal = sum(count / np.log2(rank + 2) for rank, count in enumerate(sorted(actual, reverse=True)[:k]))
    return gain / ideal if ideal else 1.0


@given(some_counts, some_counts, fractions)
def test_ndcg_is_that_of_a_plain_loop(expected, actual, fraction):
    assert ndcg_at(expected, actual, fraction) == pytest.approx(
        plain_ndcg(expected.tolist(), actual.tolist(), depth_of(fraction, 12))
    )


def test_ndcg_of_a_ranking_by_hand():
    # Ranked 1, 0 of the counts 1, 3: 3 / log2(2) + 1 / log2(3) is also the best; the other way round it is less.
    actual = np.array([1.0, 3, 0, 0])
    assert ndcg_at(np.array([5.0, 9, 0, 0]), actual, 0.5) == pytest.approx(1)
    assert ndcg_at(np.array([9.0, 5, 0, 0]), actual, 0.5) == pytest.approx((1 + 3 / np.log2(3)) / (3 + 1 / np.log2(3)))
    assert ndcg_at(np.array([0.0, 0, 9, 8]), actual, 0.5) == 0
    assert ndcg_at(np.ones(4), np.zeros(4), 0.5) == 1


@given(hnp.arrays(np.float64, st.integers(0, 30), elements=st.integers(0, 4).map(float)), fractions)
def test_the_top_is_the_beginning_of_a_stable_sort(expected, fraction):
    depth = depth_of(fraction, len(expected))
    assert top(expected, fraction).tolist() == np.argsort(-expected, kind="stable")[:depth].tolist()


@given(some_counts, some_counts, fractions, st.floats(0.1, 100))
def test_rank_scores_are_shares_that_see_the_order_alone_and_are_best_for_the_truth(expected, actual, fraction, scale):
    for score in (ndcg_at, hit_mass, precision_at):
        found = score(expected, actual, fraction)
        assert 0 <= found <= 1 + 1e-12
        assert found <= score(actual, actual, fraction) + 1e-12
        assert found == pytest.approx(score(expected * scale, actual, fraction))
    assert ndcg_at(actual, actual, fraction) == pytest.approx(1)
    assert hit_mass(expected, actual, 1.0) == pytest.approx(1)


@given(st.permutations(range(12)), some_counts, fractions)
def test_rank_scores_without_ties_do_not_depend_on_how_chunks_are_numbered(order, actual, fraction):
    expected = np.arange(12.0)
    for score in (ndcg_at, hit_mass, precision_at):
        assert score(expected[list(order)], actual[list(order)], fraction) == pytest.approx(
            score(expected, actual, fraction)
        )


def test_hit_mass_is_the_share_of_draws_on_the_chunks_that_fit():
    actual = np.array([5.0, 1.0, 3.0, 1.0])
    assert hit_mass(np.array([1.0, 9, 8, 0]), actual, 0.5) == pytest.approx(0.4)
    assert hit_mass(actual, actual, 0.5) == pytest.approx(0.8)
    assert hit_mass(np.zeros(4), actual, 0.25) == pytest.approx(0.5)
    assert hit_mass(np.ones(4), np.zeros(4), 0.25) == 1
    assert hit_mass(np.arange(30.0), np.ones(30), 0.1) == pytest.approx(0.1)


def test_precision_is_the_share_of_those_ranked_highest_that_were_accessed():
    actual = np.array([5.0, 0.0, 3.0, 1.0])
    assert precision_at(np.array([9.0, 8, 7, 0]), actual, 0.75) == pytest.approx(2 / 3)
    assert precision_at(np.array([9.0, 8, 7, 0]), actual, 0.25) == 1
    assert precision_at(np.empty(0), np.empty(0), 0.5) == 0


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan")])
def test_a_depth_that_cannot_be_is_refused(fraction):
    with pytest.raises(ConfigError, match=f"fraction {fraction}"):
        ndcg_at(np.ones(3), np.ones(3), fraction)


@given(
    hnp.arrays(np.float64, 8, elements=st.floats(0, 1e6, allow_subnormal=False)),
    hnp.arrays(np.float64, 8, elements=st.floats(0, 1e6, allow_subnormal=False)),
)
def test_relative_error_is_a_share_and_zero_only_for_equals(expected, actual):
    error = relative_error(expected, actual)
    assert 0 <= error <= 1
    assert error == relative_error(actual, expected)
    assert relative_error(actual, actual) == 0


def test_relative_error_of_disjoint_forecasts_is_one():
    assert relative_error(np.array([3.0, 0]), np.array([0, 2.0])) == 1
    assert relative_error(np.array([3.0, 1]), np.array([1.0, 1])) == pytest.approx(2 / 4)


# -- probabilities -------------------------------------------------------------------------------------


def test_proper_scores_are_those_of_the_text_books():
    probability, accessed = np.array([0.9, 0.2]), np.array([True, False])
    assert brier(probability, accessed) == pytest.approx((0.01 + 0.04) / 2)
    assert log_loss(probability, accessed) == pytest.approx(-(np.log(0.9) + np.log(0.8)) / 2)
    assert log_loss(np.array([0.0]), np.array([True])) == pytest.approx(-np.log(1e-6))


@given(outcomes, st.floats(0.01, 0.99))
def test_proper_scores_are_least_for_the_share_that_came(accessed, other):
    share = np.full(40, accessed.mean())
    for score in (brier, log_loss):
        assert score(share, accessed) <= score(np.full(40, other), accessed) + 1e-9


def test_skill_is_the_share_of_the_references_error_that_is_gone():
    assert brier_skill(0.05, 0.1) == pytest.approx(0.5)
    assert brier_skill(0.0, 0.1) == 1
    assert brier_skill(0.2, 0.1) == pytest.approx(-1)
    assert brier_skill(0.1, 0.0) is None


def test_calibration_error_is_the_gap_weighted_by_bin():
    # What is said too rarely in one bin does not make up for what is said too often in another.
    probability = np.array([0.05, 0.05, 0.95, 1.0])
    assert calibration_error(probability, np.array([False, True, True, False])) == pytest.approx(
        0.5 * abs(0.05 - 0.5) + 0.5 * abs(0.975 - 0.5)
    )
    # Two bins make one of what ten tell apart.
    assert calibration_error(np.array([0.1, 0.3]), np.array([False, True]), bins=2) == pytest.approx(0.3)
    assert calibration_error(np.array([[1.0], [0.0]]), np.array([[True], [False]])) == 0


@given(probabilities, outcomes)
def test_calibration_error_is_a_share_and_never_below_the_overall_gap(probability, accessed):
    error = calibration_error(probability, accessed)
    assert abs(probability.mean() - accessed.mean()) - 1e-9 <= error <= 1
    assert error == pytest.approx(calibration_error(probability[::-1], accessed[::-1]))


@given(outcomes)
def test_the_share_that_came_is_calibrated(accessed):
    assert calibration_error(np.full(40, accessed.mean()), accessed) == pytest.approx(0, abs=1e-12)
