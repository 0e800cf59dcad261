import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from forecast_world import history_of, popularity, sweep

from foreshard.errors import ConfigError, DeadlineError
from foreshard.forecast import boosting, child
from foreshard.forecast.backtest import backtest
from foreshard.forecast.ensemble import EnsembleForecaster
from foreshard.forecast.ewma import EwmaForecaster
from foreshard.forecast.gbm import GbmForecaster

DIGEST = """
import hashlib, sys
import numpy as np
from forecast_world import history_of, popularity
from foreshard.forecast import gbm, gbm_worker
from foreshard.forecast.logistic import LogisticForecaster

in_child = gbm.in_child
gbm.in_child = lambda _module, arrays, _seconds: gbm_worker.work(arrays)

def digest(*parts):
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()[:16]

def forecast(history):
    made = gbm.GbmForecaster().fit(history).predict(4)
    return digest(made.expected, made.probability, made.lower, made.upper)
"""


def run(code, **environment):
    """Run code in a process of its own, in which LightGBM trains as well, not in a child for each fit."""
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(boosting.__file__).parents[2])])
    given = os.environ | {"PYTHONPATH": path} | environment
    done = subprocess.run([sys.executable, "-c", DIGEST + code], capture_output=True, text=True, env=given, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def alternating(windows=16, chunks=300):
    """Half of the chunks are read in even windows, half in odd ones: no average sees it."""
    on = (np.arange(windows + 1)[:, None] + np.arange(chunks)[None, :]) % 2 == 0
    counts = np.random.default_rng(1).poisson(np.where(on, 20.0, 0.2))
    return history_of(counts[:windows], 1), counts[windows]


# -- quality -------------------------------------------------------------------------------------------


def test_what_an_average_cannot_see_is_learned():
    history, truth = alternating()
    plain, learned = (make().fit(history).predict(1) for make in (EwmaForecaster, GbmForecaster))
    error = [np.abs(made.expected[0] - truth).mean() for made in (plain, learned)]
    brier = [np.square(made.probability[0] - (truth > 0)).mean() for made in (plain, learned)]
    assert error[1] < 0.5 * error[0]
    assert brier[1] < 0.5 * brier[0]


def test_a_sequential_reader_is_forecast_in_its_phases_from_any_window():
    for windows in (16, 14):
        forecast = GbmForecaster().fit(sweep().until(windows)).predict(6)
        truth = sweep(epochs=6).counts[windows : windows + 6]
        assert forecast.expected == pytest.approx(truth, abs=0.3)
        assert forecast.probability == pytest.approx((truth > 0).astype(float), abs=0.02)


def test_steady_rates_are_left_to_the_moving_average():
    history, rates = popularity(chunks=400, seed=3)
    error = [
        np.abs(np.log(make().fit(history).predict(4).expected / rates[16:])).mean()
        for make in (EwmaForecaster, GbmForecaster)
    ]
    assert error[1] < 1.1 * error[0]


def test_no_expectation_runs_away_from_the_moving_average():
    counts = np.ones((10, 300))
    counts[-3:, :150] = 1e6
    forecast, level = (make().fit(history_of(counts, 1)).predict(1) for make in (GbmForecaster, EwmaForecaster))
    assert (forecast.expected <= 50.001 * level.expected).all()


def test_windows_beyond_the_epoch_repeat_it():
    forecast = GbmForecaster().fit(popularity()[0]).predict(9)
    assert np.array_equal(forecast.expected[:4], forecast.expected[4:8])
    assert np.array_equal(forecast.probability[0], forecast.probability[8])


def test_histories_that_teach_nothing_leave_the_moving_average():
    counts = np.zeros((12, 40))
    silent = history_of(counts, 1)
    counts[0] = 9
    ceased = history_of(counts, 1)
    new = np.zeros((12, 40))
    new[-1] = 5
    for history in (silent, ceased, history_of(new, 1), history_of(new, 4)):
        forecast, level = (make().fit(history).predict(1) for make in (GbmForecaster, EwmaForecaster))
        assert forecast.expected == pytest.approx(level.expected, abs=0.1)
        assert np.isfinite(forecast.probability).all()


def test_learned_forecasts_are_sound_on_any_counts():
    code = """
from foreshard.forecast.ensemble import EnsembleForecaster

rng = np.random.default_rng(0)
for case in range(60):
    shape = rng.integers(8, 15), rng.integers(1, 12)
    counts = rng.integers(0, 10 ** rng.integers(0, 7) + 1, shape) * (rng.random(shape) < rng.choice([0, 0.05, 0.5, 1]))
    counts[: rng.choice([0, 0, shape[0] - 2])] = 0
    history = history_of(counts, int(rng.integers(1, 6)))
    for forecaster in (gbm.GbmForecaster(), LogisticForecaster(), EnsembleForecaster()):
        forecast = forecaster.fit(history).predict(3)
        for part in (forecast.expected, forecast.probability, forecast.lower, forecast.upper):
            assert part.shape == (3, shape[1])
            assert np.isfinite(part).all() and part.min() >= 0
            assert (part[:, counts.sum(0) == 0] == 0).all()
        assert forecast.probability.max() <= 1
        assert (forecast.lower <= forecast.expected).all() and (forecast.expected <= forecast.upper).all()
print("sound")
"""
    assert run(code) == ["sound"]


# -- determinism and processes -------------------------------------------------------------------------


def test_forecasts_are_the_same_bits_for_every_number_of_threads():
    code = """
from foreshard.forecast.calibration import fit_platt
from foreshard.forecast.groups import group_chunks
from foreshard.forecast.metrics import ndcg_at

counts = np.random.default_rng(0).poisson(np.random.default_rng(1).gamma(0.3, 4.0, (12, 6000)))
history = history_of(counts, 1)
print(forecast(history), digest(LogisticForecaster().fit(history).predict(2).probability))

level, chance = np.random.default_rng(2).gamma(0.5, 2.0, (2, 300_000))
came = np.random.default_rng(3).poisson(level)
print(fit_platt(-np.expm1(-chance * level), came > 0))
print(ndcg_at(chance * level, came.astype(float), 0.1).hex())
print(digest(group_chunks(history_of(np.stack([came, came[::-1], came]), 1), 3)))
"""
    one, two = (run(code, OMP_NUM_THREADS=n, OPENBLAS_NUM_THREADS=n) for n in ("1", "2"))
    assert one == two


def test_neither_lightgbm_nor_torch_is_ever_loaded_and_the_child_forecasts_the_same():
    code = """
from foreshard.forecast.lstm import LstmForecaster

history, _ = popularity(chunks=100)
here_as_well, gbm.in_child = gbm.in_child, in_child
there = forecast(history)
LstmForecaster().fit(history)
print({"lightgbm", "torch"} & set(sys.modules) == set())
gbm.in_child = here_as_well
print(there == forecast(history), {"lightgbm", "torch"} & set(sys.modules) == {"lightgbm"})
"""
    assert run(code) == ["True", "True", "True"]


def test_a_child_that_is_late_or_fails_says_so():
    with pytest.raises(DeadlineError, match=r"gbm_worker did not finish within 0\.01 s"):
        child.in_child("foreshard.forecast.gbm_worker", {}, 0.01)
    with pytest.raises(ConfigError, match=r"gbm_worker ended with 1: KeyError: .counts"):
        child.in_child("foreshard.forecast.gbm_worker", {"nothing": np.zeros(1)}, 60)


def test_a_file_of_the_working_directory_is_not_taken_for_a_library(tmp_path, monkeypatch):
    for name in ("foreshard", "numpy", "lightgbm"):
        tmp_path.joinpath(f"{name}.py").write_text("raise SystemExit(f'{__file__} was imported')\n")
    monkeypatch.chdir(tmp_path)
    boosting._trouble_in_child.cache_clear()
    assert GbmForecaster().fit(popularity(chunks=5)[0]).predict(1).expected.shape == (1, 5)


def test_a_history_survives_the_way_to_the_child():
    history, _ = popularity(chunks=3)
    back = child.unpacked(child.packed(history.until(7)))
    assert np.array_equal(back.counts, history.counts[:7])
    assert (back.phases_per_epoch, back.next_phase) == (4, 3)


# -- without LightGBM ------------------------------------------------------------------------------------


@pytest.fixture
def broken(monkeypatch, tmp_path):
    """A LightGBM whose library does not find libgomp in children."""
    tmp_path.joinpath("lightgbm.py").write_text("raise OSError('libgomp.so.1: cannot open shared object file')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    boosting._trouble_in_child.cache_clear()
    yield
    boosting._trouble_in_child.cache_clear()


@pytest.mark.usefixtures("broken")
def test_a_missing_library_is_told_with_its_fix():
    with pytest.raises(ConfigError, match=r"'gbm' is not available: .*libgomp\.so\.1: cannot open.*apt-get install"):
        GbmForecaster().fit(popularity(chunks=5)[0])


@pytest.mark.usefixtures("broken")
def test_without_its_library_gbm_abstains_in_the_open_and_the_ensemble_goes_on():
    history, _ = popularity()
    tested = backtest(history, ["ewma", "gbm", "ensemble"], cache_fraction=0.1)
    rows = {row["model"]: row for row in tested.summary()}
    assert (rows["gbm"]["status"], rows["gbm"]["origins"]) == ("abstained", 0)
    assert "apt-get install libgomp1" in rows["gbm"]["reason"]
    assert tested.chosen == "ensemble"
    assert "without gbm: LightGBM's library" in EnsembleForecaster().fit(history).predict(1).note


def test_lightgbm_that_is_not_installed_is_told_with_its_fix(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "lightgbm" else found(name))
    assert "pip install 'foreshard[plan]'" in boosting.lightgbm_trouble()
