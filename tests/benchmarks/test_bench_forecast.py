"""The benchmark of forecasts knows no future, counts hits as plain caches do, and says what it lacks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks import forecast_tasks, reactive
from benchmarks.forecast import figures_of, summary
from benchmarks.forecast_data import Case, check_folder, daily, tails, trace_of
from benchmarks.forecast_policies import replay, replay_epochs
from benchmarks.forecast_rolling import SHIPPED, expected_of, roll
from foreshard.access.trace import equal_starts
from foreshard.forecast.registry import DEFAULT_NAMES, make_forecasters
from foreshard.simulate.belady import plan_residency

DATA = Path(__file__).parent.parent / "data"
NAMES = ("last", "ewma")
LOGS = ("scarab", "web12", "oltp", "flights", "nyc")


@pytest.fixture(scope="module")
def web12():
    """The first product pages of a real log."""
    objects = pq.read_table(DATA / "gate_web12.parquet").column("object_id").to_numpy()[:12_000]
    return Case("web12", "web12", trace_of(objects, equal_starts(len(objects), 16), 1), 4)


@pytest.fixture(scope="module")
def rolled(web12):
    return roll(web12, NAMES)


@pytest.fixture(scope="module")
def hits(web12, rolled):
    return replay(web12, rolled, 0.1)


# -- logs ----------------------------------------------------------------------------------------------


def test_objects_are_numbered_by_their_first_request():
    trace = trace_of(np.array(["b", "a", "b", "c"]), equal_starts(4, 2), 1)
    assert trace.objects.tolist() == [0, 1, 0, 2]
    assert trace.names.tolist() == ["b", "a", "c"]
    assert trace.nbytes.tolist() == [1, 1, 1]


def test_every_day_is_a_window_even_one_without_requests():
    days = np.array(["2013-01-01", "2013-01-01", "2013-01-03"], "datetime64[D]")
    trace = daily(np.array(["x", "y", "x"]), days)
    assert trace.starts.tolist() == [0, 2, 2, 3]
    assert trace.phases_per_epoch == 7


def test_aircraft_are_those_of_the_packaged_flights_in_order():
    names, days = tails()
    assert (len(names), len(set(names)), len(np.unique(days))) == (334_264, 4_043, 365)
    assert (np.diff(days) >= np.timedelta64(0)).all()


def test_a_missing_trace_is_named_with_its_folder(tmp_path):
    (tmp_path / "web12.parquet").touch()
    with pytest.raises(SystemExit, match=rf"{tmp_path}.* lacks scarab.parquet, oltp.parquet, dlio.*--data"):
        check_folder(tmp_path)


# -- forecasts -----------------------------------------------------------------------------------------


def test_every_window_that_counts_is_scored_for_every_model_and_baseline(rolled):
    assert rolled.first == 12
    assert rolled.scores.keys() == {SHIPPED, "last", "ewma", "last_01", "last_platt"}
    assert {len(found) for found in rolled.scores.values()} == {4}
    assert len(rolled.choices) == 4
    assert rolled.skill("last_01", "last_01") == 0
    assert rolled.skill(SHIPPED, "last_01") > 0.3
    assert rolled.mean(SHIPPED, "ndcg") == pytest.approx(rolled.mean("ewma", "ndcg"))


def test_a_forecast_and_its_choice_know_nothing_of_its_own_window(web12, rolled):
    trace = web12.trace
    newest = int(trace.starts[-2])
    objects = trace.objects.copy()
    objects[newest:] = objects[newest:][::-1] // 2
    changed = roll(replace(web12, trace=replace(trace, objects=objects)), NAMES)
    assert changed.choices == rolled.choices
    assert changed.calibrated == rolled.calibrated
    for window, expected in rolled.expected.items():
        assert np.array_equal(changed.expected[window], expected)
    assert changed.scores[SHIPPED][:-1] == rolled.scores[SHIPPED][:-1]
    assert changed.scores[SHIPPED][-1] != rolled.scores[SHIPPED][-1]


def test_what_is_expected_is_the_chosen_models_forecast_of_the_next_window(web12, rolled):
    history = web12.trace.history()
    for window, model in zip(range(12, 16), rolled.choices, strict=True):
        forecast = make_forecasters([model])[model].fit(history.until(window)).predict(1)
        assert np.array_equal(expected_of(history, rolled, window), forecast.expected[0])
    assert expected_of(history, rolled, 3).shape == (history.chunks,)


def test_probabilities_are_calibrated_where_that_helped_before(rolled):
    assert rolled.calibrated == 4
    assert rolled.mean(SHIPPED, "ece") < 0.5 * rolled.mean("ewma", "ece")
    assert rolled.mean(SHIPPED, "brier") < rolled.mean("ewma", "brier")


# -- policies ------------------------------------------------------------------------------------------


def test_hits_are_those_of_plain_caches_that_are_warm_when_counting_begins(web12, hits):
    trace = web12.trace
    start, fits = int(trace.starts[12]), int(0.1 * len(trace.names))
    assert hits.rates["lru"] == pytest.approx(reactive.lru(trace.objects, trace.nbytes, fits)[start:].mean())
    known = plan_residency(trace.objects, trace.nbytes, fits)
    assert hits.rates["MIN"] == pytest.approx(known.hit[start:].mean())
    assert hits.fraction_of_min == pytest.approx(hits.rates[SHIPPED] / hits.rates["MIN"])
    assert hits.gain == pytest.approx(hits.rates[SHIPPED] - hits.rates[hits.best_reactive])


def test_a_training_loaders_uniform_epochs_are_served_as_well_as_min_does():
    table = pq.read_table(DATA / "gate_dlio.parquet")
    objects, epochs = (table.column(name).to_numpy() for name in ("object_id", "epoch"))
    trace = trace_of(objects, np.append(np.unique(epochs, return_index=True)[1], len(epochs)), 1)
    found = replay_epochs(trace)
    assert [found[cache].fraction_of_min for cache in found] == [1] * len(found)
    assert all(each.rates["lru"] == 0 for each in found.values())


# -- figures -------------------------------------------------------------------------------------------


def test_figures_of_a_log_are_its_means_and_the_worse_of_its_caches(rolled, hits):
    less = replace(hits, gain=hits.gain - 0.1)
    for found in ({0.05: hits, 0.1: less}, {0.05: less, 0.1: hits}):
        row = figures_of(rolled, found)
        assert row["hits_vs_best_reactive"] == pytest.approx(less.gain, abs=1e-5)
        assert (row["hits_gain_5"], row["hits_gain_10"]) == tuple(round(each.gain, 5) for each in found.values())
    mean = rolled.mean
    assert row["ndcg_minus_ewma"] == pytest.approx(mean(SHIPPED, "ndcg") - mean("ewma", "ndcg"), abs=1e-5)
    assert row["ndcg_gain_over_last"] == pytest.approx(mean(SHIPPED, "ndcg") - mean("last", "ndcg"), abs=1e-5)
    assert row["ece"] == pytest.approx(mean(SHIPPED, "ece"), abs=1e-5)
    for name, reference in (("last", "last_01"), ("platt_last", "last_platt")):
        skill = 1 - mean(SHIPPED, "brier") / mean(reference, "brier")
        assert row[f"brier_skill_vs_{name}"] == pytest.approx(skill, abs=1e-5)


def test_every_figure_is_of_all_logs_as_its_name_says():
    names = (
        *("ndcg_minus_ewma", "ndcg_gain_over_last", "brier_skill_vs_last", "brier_skill_vs_platt_last"),
        *("ece", "hits_vs_best_reactive"),
    )
    for seed in range(10):  # each log is the worst one at times
        drawn = np.random.default_rng(seed).random((5, len(names)))
        rows = {log: dict(zip(names, row, strict=True)) for log, row in zip(LOGS, drawn, strict=True)}
        found = {figure.key: figure.value for figure in summary(rows)}
        assert found.pop("flights_hits_gain") == rows["flights"]["hits_vs_best_reactive"]
        for key, value in found.items():
            how, _, name = key.partition("_")
            assert value == pytest.approx(getattr(np, how)([row[name] for row in rows.values()]))


def test_figures_compare_with_their_targets(rolled, hits):
    row = figures_of(rolled, {0.05: hits, 0.1: hits})
    assert row["hits_10"] == pytest.approx(hits.rates[SHIPPED], abs=1e-5)
    assert row["brier_skill_vs_last"] == pytest.approx(rolled.skill(SHIPPED, "last_01"), abs=1e-5)
    worse = {**row, "ndcg_minus_ewma": -0.2, "brier_skill_vs_last": 0.1, "ece": 0.5, "hits_vs_best_reactive": 0.04}
    found = {figure.key: figure for figure in summary({"web12": row, "flights": worse, "nyc": row})}
    assert found["min_ndcg_minus_ewma"].value == -0.2
    assert not found["min_brier_skill_vs_last"].met
    assert found["median_brier_skill_vs_last"].value == row["brier_skill_vs_last"]
    assert found["max_ece"].value == 0.5
    assert found["flights_hits_gain"].met


def test_what_is_timed_is_the_default_forecasters_on_all_origins(tmp_path):
    counts = np.random.default_rng(1).poisson(1.0, (12, 200)).astype(np.float64)
    np.save(tmp_path / "counts.npy", counts)
    found = forecast_tasks.backtest_seconds(str(tmp_path / "counts.npy"), "2")
    assert found["seconds"] > 0
    assert found["chosen"] in DEFAULT_NAMES
    assert forecast_tasks.forecaster_seconds(str(tmp_path / "counts.npy"), "ewma") > 0
    # Boosted trees abstain from seven windows, and the ensemble goes on without them.
    np.save(tmp_path / "counts.npy", counts[:8])
    with pytest.raises(AssertionError, match="not all took part"):
        forecast_tasks.backtest_seconds(str(tmp_path / "counts.npy"), "1")
