import logging
import subprocess
import sys
import warnings

import numpy as np
import pytest
from forecast_world import history_of, popularity, sweep
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from foreshard.errors import ConfigError
from foreshard.forecast.base import count_forecast
from foreshard.forecast.ewma import ALPHAS, EwmaForecaster, smooth
from foreshard.forecast.grouped_prophet import GroupedProphetForecaster, quiet
from foreshard.forecast.groups import MAX_GROUPS, group_chunks, group_count
from foreshard.forecast.last import LastForecaster
from foreshard.forecast.registry import FORECASTERS, make_forecasters
from foreshard.forecast.trend import TrendForecaster, shrunk_trend

CHEAP = ["last", "seasonal", "ewma", "trend", "tsb"]
HERE = [name for name in FORECASTERS if name != "lstm"]
"""The network takes seconds in a process of its own: see test_forecast_lstm.py."""


def check(forecast, horizon, chunks, name):
    arrays = (forecast.expected, forecast.probability, forecast.lower, forecast.upper)
    assert all(a.shape == (horizon, chunks) and a.dtype == np.float64 and np.isfinite(a).all() for a in arrays)
    assert (forecast.expected >= 0).all()
    assert ((forecast.probability >= 0) & (forecast.probability <= 1)).all()
    assert (forecast.lower <= forecast.expected).all()
    assert (forecast.expected <= forecast.upper).all()
    assert forecast.model == name


@pytest.mark.parametrize("name", HERE)
def test_every_forecaster_is_sound_and_repeats_itself_bit_for_bit(name):
    history, _ = popularity(chunks=70, windows=12, growth=0.1)
    first, second = (FORECASTERS[name]().fit(history).predict(5) for _ in range(2))
    check(first, 5, 70, name)
    for field in ("expected", "probability", "lower", "upper"):
        assert np.array_equal(getattr(first, field), getattr(second, field))


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 13), st.integers(1, 6)), elements=st.integers(0, 10**6)),
    st.integers(1, 5),
    st.sampled_from(CHEAP),
)
def test_every_cheap_forecaster_is_sound_on_any_counts(counts, phases, name):
    check(FORECASTERS[name]().fit(history_of(counts, phases)).predict(3), 3, counts.shape[1], name)


@pytest.mark.parametrize("name", HERE)
def test_chunks_that_were_never_read_are_not_expected(name):
    history, _ = popularity(chunks=70, windows=12)
    history.counts[:, 10:20] = 0
    forecast = FORECASTERS[name]().fit(history).predict(4)
    assert forecast.expected[:, 10:20].max() == 0
    assert forecast.probability[:, 10:20].max() == 0
    assert np.delete(forecast.expected, np.s_[10:20], 1).min() > 0 or name in ("last", "seasonal")


@pytest.mark.parametrize("name", HERE)
def test_a_constant_history_goes_on(name):
    counts = np.tile(np.arange(70.0), (12, 1))
    assert FORECASTERS[name]().fit(history_of(counts)).predict(4).expected == pytest.approx(counts[:4])


@pytest.mark.parametrize("name", FORECASTERS)
def test_too_short_a_history_is_refused_naming_the_need(name):
    forecaster = FORECASTERS[name]()
    history = history_of(np.ones((forecaster.min_windows - 1, 3)))
    with pytest.raises(ConfigError, match=f"'{name}' needs {forecaster.min_windows} windows"):
        forecaster.fit(history)


def test_names_are_checked():
    for names in (["ewma", "oracle"], [], ["ewma", "ewma"]):
        with pytest.raises(
            ConfigError, match="choose distinct ones of last, seasonal, ewma, trend, tsb, logistic, gbm"
        ):
            make_forecasters(names)


def test_nothing_heavy_is_imported_before_a_model_is_fitted():
    heavy = {"prophet", "pandas", "sklearn", "matplotlib", "torch", "scipy", "lightgbm"}
    imports = "import sys, foreshard.forecast.plots, foreshard.forecast.lstm_worker, foreshard.forecast.gbm_worker"
    code = f"{imports}; import foreshard.access.ingest; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- count distribution ------------------------------------------------------------------------------


@pytest.mark.parametrize("dispersion", [0.0, 0.3, 2.0])
def test_probability_of_a_draw_is_that_of_the_negative_binomial(dispersion):
    mean = np.array([[0.01, 0.5, 3.0, 40.0]])
    law = stats.nbinom(1 / dispersion, 1 / (1 + dispersion * mean)) if dispersion else stats.poisson(mean)
    assert count_forecast(mean, dispersion, "x").probability == pytest.approx(1 - law.pmf(0), rel=1e-12)


@pytest.mark.parametrize("dispersion", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("mean", [5.0, 30.0, 1000.0])
def test_bounds_hold_their_share_of_counts(dispersion, mean):
    forecast = count_forecast(np.array([[mean]]), dispersion, "x")
    law = stats.nbinom(1 / dispersion, 1 / (1 + dispersion * mean)) if dispersion else stats.poisson(mean)
    lower, upper = forecast.lower[0, 0], forecast.upper[0, 0]
    assert law.ppf(0.1) == pytest.approx(lower, rel=0.06, abs=1)
    assert law.ppf(0.9) == pytest.approx(upper, rel=0.03, abs=1)


# -- last ----------------------------------------------------------------------------------------------


def test_last_repeats_the_last_window():
    forecast = LastForecaster().fit(history_of([[1, 2], [0, 7]])).predict(2)
    assert forecast.expected.tolist() == [[0, 7], [0, 7]]
    assert forecast.probability[0] == pytest.approx([0, 1 - np.exp(-7)])


# -- ewma ----------------------------------------------------------------------------------------------


def test_levels_are_the_normalised_weighted_mean():
    counts = np.array([[4.0], [8.0], [16.0]])
    found = smooth(history_of(counts), 0.5, 1, 1)
    assert found.levels[0, 0] == pytest.approx((4 * 0.25 + 8 * 0.5 + 16) / 1.75)
    # One window ahead: 4 before 8, then (4 / 2 + 8) / 1.5 before 16.
    assert found.error[0] == pytest.approx((8 - 4) ** 2 + (16 - 10 / 1.5) ** 2)
    assert found.lag == pytest.approx((0 * 1 + 1 * 0.5 + 2 * 0.25) / 1.75)


def test_steady_rates_are_averaged_and_moving_ones_are_followed():
    steady, _ = popularity(seed=1)
    rng = np.random.default_rng(2)
    moving = history_of(rng.poisson(1e4 * np.exp(np.cumsum(rng.normal(0, 0.5, (16, 50)), 0))))
    assert np.mean(EwmaForecaster().fit(steady).smoothing.alpha == ALPHAS[0]) > 0.9
    assert EwmaForecaster().fit(moving).smoothing.alpha.min() >= 0.7


def test_of_equally_good_models_the_plainest_is_taken():
    smoothing = EwmaForecaster().fit(history_of(np.full((12, 3), 7.0))).smoothing
    assert (smoothing.season, smoothing.alpha.tolist()) == (1, [ALPHAS[0]] * 3)


def test_cold_chunks_are_averaged_even_beside_hot_ones_that_move():
    rng = np.random.default_rng(2)
    hot = 1e4 * np.exp(np.cumsum(rng.normal(0, 0.5, (16, 50)), 0))
    counts = np.concatenate([rng.poisson(hot), rng.poisson(2, (16, 500))], axis=1)
    forecast = EwmaForecaster().fit(history_of(counts)).predict(4)
    assert forecast.expected[:, 50:].min() > 0.5
    assert forecast.expected[:, 50:].max() < 5


def test_phases_are_told_apart_where_they_differ_and_only_there():
    fitted = EwmaForecaster().fit(sweep())
    assert fitted.smoothing.season == 4
    assert fitted.predict(4).expected == pytest.approx(sweep().counts[:4])
    assert EwmaForecaster().fit(popularity()[0]).smoothing.season == 1


def test_a_history_that_ends_inside_an_epoch_goes_on_with_its_next_phase():
    forecast = EwmaForecaster().fit(sweep().until(14)).predict(6)
    assert forecast.expected == pytest.approx(sweep().counts[[2, 3, 0, 1, 2, 3]])


def test_dispersion_is_recovered():
    rng = np.random.default_rng(3)
    poisson = history_of(rng.poisson(50, (40, 300)))
    dispersed = history_of(rng.poisson(50 * rng.gamma(1 / 0.4, 0.4, (40, 300))))
    assert EwmaForecaster().fit(poisson).smoothing.dispersion.max() < 0.01
    fitted = EwmaForecaster().fit(dispersed).smoothing.dispersion
    assert fitted == pytest.approx(np.full(300, 0.4), abs=0.1)


# -- trend ---------------------------------------------------------------------------------------------


def test_noise_is_not_taken_for_a_trend():
    history, _ = popularity(chunks=500, seed=4)
    ewma, trend = EwmaForecaster().fit(history).predict(4), TrendForecaster().fit(history).predict(4)
    assert trend.expected == pytest.approx(ewma.expected, rel=0.05)


def test_a_trend_is_followed():
    history, rates = popularity(chunks=500, seed=5, growth=0.08, rate=200)
    truth = rates[16:].sum(0)

    def error(forecaster):
        return np.abs(np.log(forecaster.fit(history).predict(4).expected.sum(0) / truth)).mean()

    assert error(TrendForecaster()) < 0.75 * error(EwmaForecaster())


def test_phases_that_differ_are_no_trend():
    assert np.allclose(shrunk_trend(sweep(epochs=2), 0.0), 0)
    assert shrunk_trend(sweep(epochs=2).until(7), 0.0).tolist() == [0.0] * 40


def test_no_forecast_runs_away():
    counts = np.ones((8, 3))
    counts[4:, 0] = 1e6
    ewma = EwmaForecaster().fit(history_of(counts)).predict(4)
    trend = TrendForecaster().fit(history_of(counts)).predict(4)
    assert (trend.expected <= 3.0001 * ewma.expected).all()


# -- grouped prophet ---------------------------------------------------------------------------------


def test_prophet_sees_a_season_that_a_level_does_not():
    rng = np.random.default_rng(6)
    rates = np.outer(np.tile([10.0, 40.0, 160.0, 40.0], 5), rng.uniform(0.5, 2, 70))
    history = history_of(rng.poisson(rates[:16]))
    forecast = GroupedProphetForecaster().fit(history).predict(4)
    assert forecast.expected.sum(1) == pytest.approx(rates[16:].sum(1), rel=0.15)


def test_prophet_never_goes_below_zero():
    falling = np.maximum(np.linspace(100, 1, 12)[:, None] * np.ones(64), 0)
    forecast = GroupedProphetForecaster().fit(history_of(falling, 1)).predict(8)
    assert forecast.expected.min() == 0


def test_prophet_is_quiet_and_leaves_logging_and_warnings_as_they_were(capfd):
    loggers = [logging.getLogger(name) for name in ("prophet", "cmdstanpy", "prophet.plot")]
    before = [(logger.disabled, logger.level, len(logger.filters)) for logger in loggers]
    filters = list(warnings.filters)
    GroupedProphetForecaster().fit(popularity(chunks=5)[0]).predict(2)
    assert [(logger.disabled, logger.level, len(logger.filters)) for logger in loggers] == before
    assert warnings.filters == filters
    assert capfd.readouterr() == ("", "")


def test_loggers_come_back_after_an_error_too():
    logger = logging.getLogger("cmdstanpy")
    with quiet():
        assert logger.disabled
    with pytest.raises(ZeroDivisionError), quiet():
        _ = 1 / 0
    assert not logger.disabled


def test_groups_scale_with_chunks_and_history_up_to_a_limit():
    assert [group_count(chunks, 100) for chunks in (1, 63, 64, 512, 10**7)] == [1, 1, 2, 16, MAX_GROUPS]
    assert [group_count(10**7, windows) for windows in (1, 16, 64, 500)] == [1, 16, 64, MAX_GROUPS]


def test_chunks_that_rise_and_fall_are_told_apart_whatever_their_size():
    rng = np.random.default_rng(7)
    slope = np.where(np.arange(200) % 2, 0.15, -0.15)
    rates = rng.uniform(20, 2000, 200) * np.exp(np.outer(np.arange(12) - 6, slope))
    group = group_chunks(history_of(rng.poisson(rates)), 2)
    assert len(set(zip(group, slope, strict=True))) == 2
    assert np.array_equal(group, group_chunks(history_of(rng.poisson(rates)), 2))
