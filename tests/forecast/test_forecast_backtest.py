import numpy as np
import pytest
from forecast_world import history_of, popularity, shuffled, sweep
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from foreshard.errors import ConfigError
from foreshard.forecast.backtest import BACKTEST_SCHEMA, BASELINES, backtest, origin_windows
from foreshard.forecast.calibration import choose_platt, fit_platt, tried_platt
from foreshard.forecast.ewma import EwmaForecaster
from foreshard.forecast.metrics import calibration_error, log_loss


def run(history, names=("last", "ewma", "ensemble"), **options):
    return backtest(history, names, **{"cache_fraction": 0.1, **options})


# -- origins and metrics -------------------------------------------------------------------------------


@given(st.integers(2, 200), st.integers(1, 8), st.integers(1, 6))
def test_origins_are_distinct_leave_a_past_and_end_with_the_history(windows, horizon, origins):
    horizon = min(horizon, windows // 2)
    found = origin_windows(windows, horizon, origins)
    assert found == sorted(set(found))
    assert found[0] >= 1
    assert found[-1] + horizon == windows
    assert min(origins, 3, windows - horizon) <= len(found) <= origins
    assert all(1 <= step <= horizon for step in np.diff(found))
    if len(found) > 3:
        assert (np.diff(found) == horizon).all()
        assert found[0] >= 2 * horizon


def test_four_origins_lie_an_epoch_apart_where_there_are_six_epochs():
    assert origin_windows(24, 4, 4) == [8, 12, 16, 20]
    assert origin_windows(48, 4, 4) == [32, 36, 40, 44]
    assert origin_windows(24, 1, 5) == [19, 20, 21, 22, 23]


def test_three_origins_are_found_in_less_and_leave_eight_windows_of_past_if_there_are_as_many():
    assert origin_windows(20, 4, 4) == [8, 12, 16]
    assert origin_windows(16, 4, 4) == [8, 10, 12]
    assert origin_windows(3, 1, 4) == [1, 2]


# -- scores and choice -------------------------------------------------------------------------------


def test_scores_of_the_last_value_model_are_those_computed_by_hand():
    counts = np.array([[4, 0, 2, 1], [3, 0, 5, 0], [0, 1, 6, 1], [2, 0, 7, 0]])
    scores = run(history_of(counts, 1), ["last"], cache_fraction=0.25, origins=2).scores
    assert scores.schema.equals(BACKTEST_SCHEMA)
    assert scores.column("model").to_pylist() == ["last", "last", "last_01", "last_01"]
    assert scores.column("origin").to_pylist() == [2, 3, 2, 3]
    assert scores.column("hit_mass").to_pylist() == pytest.approx([6 / 8, 7 / 9] * 2)
    p = 1 - np.exp(-counts[2].astype(float))
    brier = np.mean((p - (counts[3] > 0)) ** 2)
    assert scores.column("brier").to_pylist()[1] == pytest.approx(brier)
    # Of four chunks, the last value is right about one.
    assert scores.column("brier").to_pylist()[3] == pytest.approx(3 / 4)
    assert scores.column("brier_skill_vs_last").to_pylist()[1] == pytest.approx(1 - brier / (3 / 4))
    assert scores.column("ndcg").to_pylist()[1] == pytest.approx(1)
    assert scores.column("precision").to_pylist()[1] == pytest.approx(1)


def test_a_forecast_knows_nothing_of_the_windows_it_is_scored_on():
    history, _ = popularity(growth=0.1)
    changed = history_of(np.concatenate([history.counts[:12], history.counts[12:][:, ::-1] + 5]))
    one, two = (run(h, ["ewma"]).held_out for h in (history, changed))
    assert np.array_equal(one.expected, two.expected)
    assert not np.array_equal(one.actual, two.actual)
    assert np.array_equal(one.expected, EwmaForecaster().fit(history.until(12)).predict(4).expected.sum(0))


def test_the_ensemble_is_kept_where_nothing_is_clearly_better():
    for history in (popularity()[0], shuffled()):
        assert run(history).chosen == "ensemble"


def test_a_model_that_is_clearly_better_replaces_the_default():
    # A crowd wanders over the chunks: the trend knows which way.
    wave = np.exp(-((np.arange(300)[None, :] - 12 * np.arange(20)[:, None] - 20) ** 2) / 2e3)
    tested = run(history_of(np.round(500 * wave)), ["ewma", "trend"])
    assert tested.chosen == "trend"


def test_prophet_abstains_from_short_histories_in_the_open():
    history, _ = popularity(windows=8)
    tested = run(history, ("last", "ewma", "prophet", "ensemble"))
    assert set(tested.scores.column("model").to_pylist()) == {"last", "ewma", "ensemble", *BASELINES}
    assert tested.abstained == {"prophet": "needs 8 windows, had 2 at an origin"}
    row = tested.summary()[-1]
    assert (row["model"], row["status"], row["origins"], row["hit_mass"]) == ("prophet", "abstained", 0, None)
    assert "needs 8 windows" in row["reason"]


def test_a_model_that_abstained_once_is_scored_but_not_chosen():
    history, _ = popularity(chunks=20, windows=13)
    tested = run(history, ("prophet", "ewma"))
    rows = {row["model"]: row for row in tested.summary()}
    assert tested.chosen == "ewma"
    assert (rows["prophet"]["origins"], rows["prophet"]["status"]) == (2, "abstained")
    origins = tested.scores.filter(np.array(tested.scores.column("model")) == "prophet").column("origin")
    assert origins.to_pylist() == [8, 9]


def test_prophet_takes_part_in_a_window_of_four_epochs():
    tested = run(popularity(chunks=40, windows=16)[0], ("last", "prophet"))
    assert tested.abstained == {}
    assert {row["model"]: row["origins"] for row in tested.summary()} == {
        "last": 3,
        "prophet": 3,
        "last_01": 3,
        "last_platt": 2,
    }


def test_nobody_is_put_in_the_place_of_those_who_abstain():
    with pytest.raises(ConfigError, match=r"every forecaster abstained .*prophet needs 8 windows.*add 'ewma'"):
        run(popularity(windows=4)[0], ["prophet"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"names": ["psychic"]}, "psychic"),
        ({"cache_fraction": 0.0}, "cache fraction 0.0"),
        ({"cache_fraction": 1.5}, "cache fraction 1.5"),
        ({"origins": 0}, "origins 0"),
        ({"scored": 0}, "scored 0"),
    ],
)
def test_impossible_options_are_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        run(popularity()[0], **options)


def test_too_short_a_history_is_refused():
    with pytest.raises(ConfigError, match="needs 3 windows and a chunk; the history has 2 windows of 5 chunks"):
        run(history_of(np.ones((2, 5))))


def test_a_sequential_reader_is_forecast_without_error():
    tested = run(sweep(epochs=6), ["last", "ewma"])
    assert tested.chosen == "ewma"
    assert tested.error == pytest.approx(0, abs=1e-9)


def test_regret_is_what_the_best_model_gained_over_the_chosen_one():
    tested = run(popularity()[0])
    rows = {row["model"]: row["hit_mass"] for row in tested.summary() if row["status"] != "baseline"}
    assert tested.regret == pytest.approx(max(rows.values()) - rows[tested.chosen])
    assert run(popularity()[0], ["ewma"]).regret == 0


def test_the_error_of_calibration_is_that_of_what_is_held_out():
    tested = run(popularity()[0])
    held = tested.held_out
    assert tested.ece == pytest.approx(calibration_error(held.probability, held.accessed))


def test_a_backtest_repeats_itself():
    history, _ = popularity(growth=0.1)
    one, two = run(history), run(history)
    assert one.scores.equals(two.scores)
    assert one.summary() == two.summary()


# -- calibration -------------------------------------------------------------------------------------


def overconfident(seed, slope=2.5, n=(4, 3000)):
    """Log-odds that are `slope` times too large, and what happened."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1.5, n)
    return 1 / (1 + np.exp(-slope * x)), rng.random(n) < 1 / (1 + np.exp(-x))


def test_a_known_distortion_is_undone():
    probability, accessed = overconfident(1)
    curve = fit_platt(probability, accessed)
    assert curve.slope == pytest.approx(0.4, abs=0.03)
    assert curve.intercept == pytest.approx(0, abs=0.06)
    assert log_loss(curve.apply(probability), accessed) < log_loss(probability, accessed) - 0.05


def test_a_curve_never_changes_a_ranking():
    probability, accessed = overconfident(2)
    ranked = np.sort(probability.ravel())
    assert (np.diff(fit_platt(probability, accessed).apply(ranked)) >= 0).all()


def test_there_is_no_curve_against_the_ranking_or_without_outcomes():
    probability, accessed = overconfident(3)
    assert fit_platt(probability, ~accessed) is None
    assert fit_platt(probability[:0], accessed[:0]) is None


@pytest.mark.parametrize("happened", [True, False])
@pytest.mark.parametrize("said", [1e-9, 0.02, 0.63, 1 - 1e-9])
def test_outcomes_that_are_all_alike_shift_probabilities_as_far_as_they_prove_anything(happened, said):
    curve = fit_platt(np.full((3, 160), said), np.full((3, 160), happened))
    assert curve.slope == 1
    expected = 481 / 482 if happened else 1 / 482
    assert curve.apply(np.array([said]))[0] == pytest.approx(expected, rel=1e-3)


@given(hnp.arrays(np.float64, st.integers(1, 50), elements=st.floats(0, 1)), st.booleans())
def test_probabilities_however_spread_give_a_finite_shift(probability, happened):
    curve = fit_platt(probability, np.full(len(probability), happened))
    assert curve.slope == 1
    assert np.isfinite(curve.intercept)
    share = (len(probability) + 1) / (len(probability) + 2)
    mean = curve.apply(probability).mean()
    assert (mean if happened else 1 - mean) == pytest.approx(share, abs=0.02)


def test_separable_outcomes_give_a_finite_curve():
    probability = np.linspace(0.1, 0.9, 50)
    curve = fit_platt(probability, probability > 0.5)
    assert np.isfinite([curve.slope, curve.intercept]).all()


def test_a_curve_is_kept_where_it_helps_on_unseen_windows():
    both = [overconfident(seed) for seed in (4, 5, 6)]
    curve = choose_platt([p for p, _ in both], [a for _, a in both], 4)
    assert curve.slope == pytest.approx(0.4, abs=0.03)


def test_good_probabilities_are_left_alone():
    both = [overconfident(seed, slope=1.0) for seed in (4, 5, 6)]
    assert choose_platt([p for p, _ in both], [a for _, a in both], 4) is None


def test_a_curve_that_the_newest_windows_contradict_is_dropped():
    old, new = overconfident(7), overconfident(8, slope=1.0)
    new[0][:3], new[1][:3] = old[0][:3], old[1][:3]
    assert choose_platt([old[0], new[0]], [old[1], new[1]], 1) is None
    assert choose_platt([old[0], old[0]], [old[1], old[1]], 4) is not None


def test_the_curve_that_a_forecast_is_held_out_with_has_not_seen_its_windows_and_old_origins_are_forgotten():
    both = [overconfident(seed) for seed in (1, 2, 3, 4, 5)]
    said, came = [p for p, _ in both], [a for _, a in both]
    assert tried_platt(said, came, 4) == fit_platt(np.concatenate(said[1:4]), np.concatenate(came[1:4]))
    assert choose_platt(said, came, 4) == fit_platt(np.concatenate(said[2:]), np.concatenate(came[2:]))
    assert tried_platt(said[:1], came[:1], 4) is None


def test_one_origin_is_not_enough_to_calibrate():
    probability, accessed = overconfident(9)
    assert choose_platt([probability], [accessed], 4) is None
