import numpy as np
import pytest
from forecast_world import history_of, popularity, shuffled, sweep
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from foreshard.errors import ConfigError
from foreshard.forecast.base import why_not
from foreshard.forecast.ensemble import EnsembleForecaster
from foreshard.forecast.ewma import EwmaForecaster
from foreshard.forecast.known import known_forecast, known_touches
from foreshard.forecast.last import LastForecaster
from foreshard.forecast.logistic import LogisticForecaster, fit_curve
from foreshard.forecast.prophet_top import MOST_CHUNKS, TopProphetForecaster
from foreshard.forecast.ranking import rank_chunks
from foreshard.forecast.registry import DEFAULT_NAMES, default_names, make_forecasters
from foreshard.forecast.seasonal import SeasonalForecaster
from foreshard.forecast.shared import SharedForecaster
from foreshard.forecast.tsb import TsbForecaster, intermittent
from foreshard.loader.order import UniformOrder


class Counting:
    """A forecaster that counts its fits, and may be unavailable."""

    name = "counting"
    min_windows = 2

    def __init__(self, trouble=None):
        self.fits, self.trouble = 0, trouble

    def unavailable(self):
        return self.trouble

    def fit(self, history):
        self.fits += 1
        self.last = LastForecaster().fit(history)
        return self

    def predict(self, horizon):
        return self.last.predict(horizon)


# -- seasonal ------------------------------------------------------------------------------------------


def test_the_last_epoch_is_repeated_by_phase():
    history = sweep().until(14)
    assert np.array_equal(SeasonalForecaster().fit(history).predict(7).expected, sweep(epochs=6).counts[14:21])


def test_phases_never_seen_are_like_the_last_window():
    forecast = SeasonalForecaster().fit(history_of([[1, 2], [3, 4]], 4)).predict(4)
    assert forecast.expected.tolist() == [[3, 4], [3, 4], [1, 2], [3, 4]]


# -- tsb -----------------------------------------------------------------------------------------------


def test_how_often_and_how_much_are_averaged_apart():
    found = intermittent(np.array([[4.0], [0.0], [10.0]]), 0.5)
    assert found.often[0] == pytest.approx((1 * 0.25 + 0 * 0.5 + 1) / 1.75)
    assert found.size[0] == pytest.approx((4 * 0.5 + 10) / 1.5)
    # One window ahead: 4 before 0, then 1/3 of the time 4 before 10.
    assert found.error[0] == pytest.approx((0 - 4) ** 2 + (10 - 4 / 3) ** 2)


def test_a_chunk_that_is_no_longer_read_fades():
    counts = np.zeros((24, 50))
    counts[:12:3] = 9
    counts[:, 25:] = np.random.default_rng(0).poisson(3.0, (24, 25))
    forecast = TsbForecaster().fit(history_of(counts, 1)).predict(1)
    assert 0 < forecast.expected[0, 0] < 0.5 * counts[:, 0].mean()
    assert 0 < forecast.probability[0, 0] < 0.5 * (counts[:, 0] > 0).mean()


def test_sparse_chunks_get_probabilities_that_come_true():
    rng = np.random.default_rng(5)
    often = rng.uniform(0.02, 0.5, 3000)
    counts = np.where(rng.random((41, 3000)) < often, rng.poisson(6.0, (41, 3000)) + 1, 0)
    forecast = TsbForecaster().fit(history_of(counts[:40], 1)).predict(1)
    assert forecast.probability[0].mean() == pytest.approx((counts[40] > 0).mean(), rel=0.1)
    assert np.corrcoef(forecast.probability[0], often)[0, 1] > 0.8


# -- logistic ------------------------------------------------------------------------------------------


def test_a_regression_finds_the_weights_it_was_made_with():
    rng = np.random.default_rng(2)
    columns = rng.normal(0, 1.5, (40_000, 3)).astype(np.float32)
    odds = 1.5 * columns[:, 0] - 0.7 * columns[:, 1] + 0.4
    curve = fit_curve(columns, rng.random(40_000) < 1 / (1 + np.exp(-odds)))
    # The first column is where it starts from, with weight 1.
    assert curve.weights[:3] / curve.scale == pytest.approx([0.5, -0.7, 0], abs=0.05)
    assert curve.odds(columns) == pytest.approx(odds, abs=0.3)


@pytest.mark.parametrize("accessed", [np.ones(500, bool), np.zeros(500, bool), np.arange(500) > 250])
def test_outcomes_that_are_all_alike_or_separable_give_a_finite_regression(accessed):
    columns = np.stack([np.zeros(500), np.arange(500.0)], axis=1).astype(np.float32)
    assert np.isfinite(fit_curve(columns, accessed).weights).all()


def test_probabilities_are_better_than_those_of_the_moving_average():
    rng = np.random.default_rng(3)
    # Bursts: what was read in the last window is read again, far more often than its mean says.
    state = np.zeros((25, 2000), bool)
    for now, before in zip(state[1:], state[:-1], strict=True):
        now[:] = np.where(before, rng.random(2000) < 0.8, rng.random(2000) < 0.05)
    history = history_of(state[:24] * 3, 1)
    brier = [
        np.square(make().fit(history).predict(1).probability[0] - state[24]).mean()
        for make in (EwmaForecaster, LogisticForecaster)
    ]
    assert brier[1] < 0.85 * brier[0]
    # What who knows the chances would score: 0.2 * 0.8 * 0.2 + 0.8 * 0.05 * 0.95.
    assert brier[1] == pytest.approx(0.07, abs=0.005)
    forecast, level = (make().fit(history).predict(1) for make in (LogisticForecaster, EwmaForecaster))
    assert np.array_equal(forecast.expected, level.expected)


# -- ensemble and shared fits --------------------------------------------------------------------------


def test_the_ensemble_lies_between_its_members():
    history, _ = popularity(growth=0.1)
    parts = [make().fit(history).predict(4) for make in (LastForecaster, EwmaForecaster)]
    members = LastForecaster(), EwmaForecaster()
    mean = EnsembleForecaster(members, members).fit(history).predict(4)
    low, high = (f(parts[0].expected, parts[1].expected) for f in (np.minimum, np.maximum))
    assert ((low <= mean.expected * (1 + 1e-9)) & (mean.expected <= high * (1 + 1e-9) + 1e-9)).all()
    assert mean.probability == pytest.approx((parts[0].probability + parts[1].probability) / 2)
    assert mean.note == ""


def test_large_counts_are_averaged_by_their_logarithm():
    members = [SharedForecaster(Counting()), SharedForecaster(Counting())]
    forecast = EnsembleForecaster(members, members).fit(history_of(np.full((3, 2), 400.0)))
    members[1]._forecaster.last = LastForecaster().fit(history_of(np.full((3, 2), 100.0)))
    assert forecast.predict(1).expected == pytest.approx(np.full((1, 2), 200.0), rel=1e-3)


def test_a_short_history_leaves_the_moving_average_and_says_why():
    history, _ = popularity(windows=6)
    forecast, level = (make().fit(history).predict(4) for make in (EnsembleForecaster, EwmaForecaster))
    assert forecast.expected == pytest.approx(level.expected)
    assert forecast.probability == pytest.approx(level.probability)
    assert forecast.note == (
        "without gbm: needs 8 windows, had 6 at an origin; without logistic: needs 8 windows, had 6 at an origin"
    )


def test_the_ensemble_of_a_long_history_has_all_members():
    history, _ = popularity()
    made = make_forecasters(["ewma", "gbm", "logistic", "ensemble"])
    parts = {name: forecaster.fit(history).predict(4) for name, forecaster in made.items()}
    assert parts["ensemble"].note == ""
    probability = (parts["gbm"].probability + parts["logistic"].probability) / 2
    assert parts["ensemble"].probability == pytest.approx(probability)
    logs = [np.log(parts[name].expected + 0.01) for name in ("ewma", "gbm")]
    assert parts["ensemble"].expected == pytest.approx(np.exp(np.average(logs, axis=0, weights=[1, 2])) - 0.01)


def test_a_shared_forecaster_is_fitted_once_per_history():
    inner = Counting()
    shared = SharedForecaster(inner)
    one, two = history_of(np.ones((3, 2))), history_of(np.full((3, 2), 2.0))
    for history in (one, one, two, two):
        assert shared.fit(history).predict(1).expected[0, 0] == history.counts[0, 0]
    assert inner.fits == 2


def test_who_abstains_says_why():
    history = history_of(np.ones((3, 2)))
    assert why_not(Counting(), history) is None
    assert why_not(SharedForecaster(Counting("no such library")), history) == "no such library"
    assert why_not(Counting(), history.until(1)) == "needs 2 windows, had 1 at an origin"
    assert why_not(SharedForecaster(LastForecaster()), history) is None


def test_prophet_is_tried_by_default_where_epochs_have_phases():
    assert default_names(sweep()) == (*DEFAULT_NAMES, "prophet")
    assert default_names(history_of(np.ones((3, 2)), 1)) == DEFAULT_NAMES


# -- known orders ----------------------------------------------------------------------------------------


def test_a_known_epoch_is_forecast_exactly():
    order = UniformOrder(1000, seed=5)
    chunk_of = np.arange(1000, dtype=np.int32) // 10
    ids = order.ids(7, 0, order.length(7))
    touches = known_touches(ids, chunk_of, 101, 4)
    forecast = known_forecast(touches)
    truth = np.stack([np.bincount(chunk_of[part], minlength=101) for part in np.array_split(ids, 4)])
    assert np.array_equal(forecast.expected, truth)
    assert np.array_equal(forecast.probability, truth > 0)
    assert np.array_equal(forecast.lower, forecast.upper)
    table = rank_chunks({forecast.model: forecast}, None, 4)
    assert set(table.column("probability").to_pylist()) == {0.0, 1.0}
    first = {row["chunk"]: row["first_phase"] for row in table.to_pylist() if row["expected"]}
    assert first == {chunk: int((truth[:, chunk] > 0).argmax()) for chunk in range(100)}


@given(hnp.arrays(np.int64, st.integers(0, 60), elements=st.integers(0, 29)), st.integers(1, 7))
def test_no_known_read_is_lost(ids, phases):
    touches = known_touches(ids, np.arange(30, dtype=np.int32) % 4, 4, phases)
    assert np.array_equal(touches.sum(0), np.bincount(ids % 30 % 4, minlength=4))
    sizes = touches.sum(1)
    assert sizes.max() - sizes.min() <= 1


def test_impossible_known_orders_are_refused():
    chunk_of = np.zeros(5, np.int32)
    with pytest.raises(ConfigError, match=r"sample ids 0\.\.5 are read, and chunks are known of samples 0\.\.4"):
        known_touches(np.array([0, 5]), chunk_of, 1, 1)
    with pytest.raises(ConfigError, match=r"chunks 1\.\.1, and there are 1"):
        known_touches(np.array([0]), chunk_of + 1, 1, 1)
    with pytest.raises(ConfigError, match="0 phases"):
        known_touches(np.array([0]), chunk_of, 1, 0)
    with pytest.raises(ConfigError, match="shape"):
        known_forecast(np.zeros(3, np.int64))
    with pytest.raises(ConfigError, match="negative"):
        known_forecast(np.array([[-1]]))


# -- prophet for a list ----------------------------------------------------------------------------------


def test_prophet_is_asked_about_the_named_chunks_only_and_never_goes_below_zero():
    counts = shuffled(epochs=4).counts.copy()
    counts[:, 3] = np.maximum(np.linspace(100, 1, len(counts)), 0)
    history = history_of(counts, 1)
    forecast, level = (f.fit(history).predict(8).expected for f in (TopProphetForecaster([3, 5]), EwmaForecaster()))
    rest = np.delete(np.arange(history.chunks), [3, 5])
    assert np.array_equal(forecast[:, rest], level[:, rest])
    assert forecast[0, 3] < level[0, 3]
    assert forecast[-1, 3] == 0


@pytest.mark.parametrize("chunks", [[], [1, 1], list(range(MOST_CHUNKS + 1))])
def test_lists_that_prophet_cannot_take_are_refused(chunks):
    with pytest.raises(ConfigError, match=f"name 1 to {MOST_CHUNKS} different ones"):
        TopProphetForecaster(chunks)


def test_a_named_chunk_must_exist():
    with pytest.raises(ConfigError, match=r"chunks 9\.\.9 are named, and the history has 0\.\.4"):
        TopProphetForecaster([9]).fit(popularity(chunks=5)[0])
