"""The default forecaster keeps its place unless another is clearly better; baselines are what they say they are."""

from dataclasses import replace

import numpy as np
import pytest
from forecast_world import history_of
from hypothesis import given
from hypothesis import strategies as st

from foreshard.forecast.base import Forecast
from foreshard.forecast.ranking import forecast_chunks
from foreshard.forecast.selection import choose_model, regret
from foreshard.forecast.trials import Scores, outcome_at, try_forecast, try_last, try_last_platt


def scores(hit_masses, skills=None, brier=0.1):
    """Scores at one origin each; where nothing is said of the Brier skill, it is the same for all."""
    base = Scores(0.0, 1.0, 1.0, brier, 0.4, 0.01, 0.3)
    skills = [0.4] * len(hit_masses) if skills is None else skills
    return [
        replace(base, hit_mass=mass, brier_skill_vs_last=skill) for mass, skill in zip(hit_masses, skills, strict=True)
    ]


# -- choice --------------------------------------------------------------------------------------------


def test_a_clear_gain_in_hit_mass_takes_the_defaults_place():
    assert choose_model({"ensemble": scores([0.5, 0.5, 0.5]), "trend": scores([0.52, 0.51, 0.53])}) == "trend"


@pytest.mark.parametrize("masses", [[0.504, 0.504, 0.504], [0.56, 0.5, 0.49], [0.4, 0.6, 0.5]])
def test_a_gain_below_half_a_percent_or_within_its_own_spread_does_not(masses):
    assert choose_model({"ensemble": scores([0.5, 0.5, 0.5]), "trend": scores(masses)}) == "ensemble"


def test_of_several_clear_gains_the_largest_wins_whatever_the_order():
    tried = {
        "trend": scores([0.51, 0.51]),
        "ensemble": scores([0.5, 0.5]),
        "last": scores([0.53, 0.53]),
        "ewma": scores([0.5, 0.5]),
    }
    assert choose_model(tried) == "last"
    assert choose_model(dict(reversed(tried.items()))) == "last"


def test_truer_probabilities_decide_only_where_the_hit_mass_does_not_suffer():
    default = scores([0.5, 0.5, 0.5], [0.40, 0.41, 0.39])
    truer = [0.42, 0.43, 0.41]
    assert choose_model({"ensemble": default, "ewma": scores([0.5, 0.5, 0.5], truer)}) == "ewma"
    assert choose_model({"ensemble": default, "ewma": scores([0.5, 0.5, 0.499], truer)}) == "ensemble"
    assert choose_model({"ensemble": default, "ewma": scores([0.5, 0.5, 0.5], [0.404, 0.41, 0.39])}) == "ensemble"
    assert choose_model({"ensemble": default, "ewma": scores([0.5] * 3, truer), "last": scores([0.52] * 3)}) == "last"


def test_where_even_the_last_value_is_without_error_brier_scores_decide():
    default = scores([0.5, 0.5], [None, None], 0.1353)
    assert choose_model({"ensemble": default, "ewma": scores([0.5, 0.5], [None, None], 0.1353)}) == "ensemble"
    assert choose_model({"ensemble": default, "ewma": scores([0.5, 0.5], [None, None], 0.131)}) == "ensemble"
    assert choose_model({"ensemble": default, "tsb": scores([0.5, 0.5], [None, None], 0.0)}) == "tsb"
    assert choose_model({"ensemble": default, "tsb": scores([0.5, 0.49], [None, None], 0.0)}) == "ensemble"


def test_what_is_read_exactly_once_an_epoch_is_expected_for_certain():
    once = history_of(np.ones((5, 160)), 1)
    for names in (("ensemble", "tsb"), ("ewma",)):  # a model that is right about it, and one that has to be calibrated
        table = forecast_chunks(once, cache_fraction=0.1, names=names).table
        assert min(table.column("probability").to_pylist()) > 0.995


def test_without_the_ensemble_the_moving_average_is_the_default_and_else_the_first():
    assert choose_model({"last": scores([0.5]), "ewma": scores([0.5])}) == "ewma"
    assert choose_model({"trend": scores([0.5]), "last": scores([0.5])}) == "trend"


@given(st.dictionaries(st.sampled_from(["a", "b", "ensemble"]), st.lists(st.floats(0, 1), min_size=3, max_size=3)))
def test_regret_is_never_negative_and_zero_for_the_best(masses):
    tried = {name: scores(found) for name, found in masses.items()}
    for name in tried:
        assert 0 <= regret(tried, name) <= 1
    if tried:
        assert min(regret(tried, name) for name in tried) == 0


# -- trials --------------------------------------------------------------------------------------------

COUNTS = np.array([[4, 0, 2, 0, 1], [3, 0, 5, 0, 0], [0, 0, 6, 0, 1], [2, 8, 7, 0, 1]])


def forecast_of(expected, probability):
    expected, probability = np.asarray(expected, float), np.asarray(probability, float)
    return Forecast(expected, probability, expected, expected, "m")


def test_chunks_never_read_before_an_origin_count_for_the_hit_mass_alone():
    outcome = outcome_at(history_of(COUNTS, 1), 3, 1)
    assert outcome.seen.tolist() == [True, False, True, False, True]
    trial, held = try_forecast(forecast_of([[3, 0, 9, 0, 1]], [[0.9, 0.7, 1, 0.1, 0.6]]), outcome, 0.4)
    assert trial.scores.brier == pytest.approx((0.01 + 0 + 0.16) / 3)
    assert trial.scores.ndcg == pytest.approx(1)
    assert trial.scores.precision == 1
    assert trial.scores.ece == pytest.approx((0.1 + 0 + 0.4) / 3)
    assert trial.scores.hit_mass == pytest.approx(9 / 18)
    assert held.probability.shape == held.accessed.shape == (1, 3)
    assert held.expected.tolist() == [3, 0, 9, 0, 1]


def test_before_anything_was_read_all_chunks_are_candidates():
    outcome = outcome_at(history_of(np.array([[0, 0], [1, 0]]), 1), 1, 1)
    assert outcome.seen.all()
    assert outcome.accessed.tolist() == [[True, False]]


def test_windows_of_a_horizon_are_scored_one_by_one_and_ranked_together():
    outcome = outcome_at(history_of(COUNTS, 1), 2, 2)
    trial, _ = try_forecast(forecast_of([[1, 0, 0, 0, 0], [1, 0, 3, 0, 0]], np.full((2, 5), 0.5)), outcome, 0.2)
    assert outcome.actual.tolist() == [2, 8, 13, 0, 2]
    assert trial.scores.brier == pytest.approx(0.25)
    assert trial.scores.hit_mass == pytest.approx(13 / 25)


def test_the_last_value_says_yes_or_no():
    outcome = outcome_at(history_of(COUNTS, 1), 3, 1)
    last = try_last(outcome, 0.4).scores
    assert last.brier == pytest.approx(1 / 3) == outcome.reference
    assert last.brier_skill_vs_last == 0
    assert last.hit_mass == pytest.approx(8 / 18)


def test_the_calibrated_last_value_says_the_shares_that_held_before():
    rng = np.random.default_rng(1)
    state = rng.random((8, 4000)) < 0.3
    for window in range(1, 8):  # read again with 0.7, and after a window without with 0.1
        state[window] = rng.random(4000) < np.where(state[window - 1], 0.7, 0.1)
    history = history_of(state * 3, 1)
    outcomes = [outcome_at(history, origin, 1) for origin in range(4, 8)]
    trial = try_last_platt(outcomes[-1], outcomes[:-1], 0.1)
    assert np.unique(trial.probability) == pytest.approx([0.1, 0.7], abs=0.03)
    assert trial.scores.brier < 0.8 * outcomes[-1].reference
    assert try_last_platt(outcomes[-1], [], 0.1) is None


def test_what_is_kept_to_calibrate_by_is_bounded_and_evenly_spaced():
    chunks = 300_000
    history = history_of(np.ones((3, chunks)), 1)
    said = np.linspace(0, 1, chunks)
    trial, held = try_forecast(forecast_of([said], [said]), outcome_at(history, 2, 1), 0.1)
    assert trial.probability.shape == trial.accessed.shape == (1, 150_000)
    assert trial.probability.mean() == pytest.approx(0.5, abs=1e-4)
    assert held.probability.shape == (1, chunks)
