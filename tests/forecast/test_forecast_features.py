import numpy as np
import pytest
from forecast_world import history_of, popularity, sweep

from foreshard.forecast.ewma import EwmaForecaster
from foreshard.forecast.features import features, view_of
from foreshard.forecast.training import training_rows

EVERY = slice(None)


def view(history, depth, seasonal=False):
    return view_of(history, depth, seasonal=seasonal, smoothing=EwmaForecaster().fit(history).smoothing)


def named(history, origin, step, depth, seasonal=False):
    seen = view(history, depth, seasonal)
    columns, level = features(history, origin, step, EVERY, seen)
    assert columns.shape == (history.chunks, len(seen.names))
    assert columns.dtype == np.float32
    return dict(zip(seen.names, columns.T, strict=True)), level


def test_features_are_those_computed_by_hand():
    counts = np.array([[0, 3.0], [2, 0], [0, 0], [5, 0], [1, 0], [9, 9]])
    found, level = named(history_of(counts, 1), 5, 1, 4)
    assert found["lag_1"] == pytest.approx(np.log1p([1, 0]))
    assert found["lag_4"] == pytest.approx(np.log1p([2, 0]))
    assert "lag_5" not in found
    assert found["mean_2"] == pytest.approx(np.log1p([3, 0]))
    assert found["frequency_4"] == pytest.approx([0.75, 0])
    assert "mean_8" not in found
    assert found["recency"].tolist() == [0, 4]
    assert found["age"].tolist() == [4, 0]
    weight = 0.5 ** np.arange(4, -1, -1)
    assert found["average_0.5"] == pytest.approx(np.log(weight @ counts[:5] / weight.sum() + 0.01), rel=1e-6)
    assert level.min() >= 0.01 * 3 / 5


def test_levels_are_what_the_moving_average_expects():
    for history in (popularity()[0], sweep()):
        expected = EwmaForecaster().fit(history).predict(4).expected
        for step in range(1, 5):
            _, level = named(history, history.windows, step, 8, seasonal=True)
            read = expected[step - 1] > 0
            assert level.min() > 0
            assert level[read] == pytest.approx(expected[step - 1][read], rel=1e-6)


def test_phases_are_those_of_the_target_window():
    found, _ = named(sweep(), 14, 3, 8, seasonal=True)
    # Window 16 is of phase 0, in which the first ten chunks are read.
    assert found["phase_last"] == pytest.approx(np.where(np.arange(40) < 10, np.log1p(50), 0))
    assert found["phase_frequency"].tolist() == [1.0] * 10 + [0.0] * 30
    assert found["step"].tolist() == [3.0] * 40


def test_features_know_nothing_of_the_future():
    history, _ = popularity()
    seen = view(history, 8, seasonal=True)
    changed = history_of(np.concatenate([history.counts[:10], 7 + history.counts[10:][:, ::-1]]))
    one, two = (features(h, 10, 2, EVERY, seen)[0] for h in (history, changed))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, features(changed, 11, 2, EVERY, seen)[0])


def test_some_chunks_have_the_features_they_have_among_all():
    history, _ = popularity()
    seen = view(history, 8, seasonal=True)
    chunks = np.array([3, 77, 150])
    some, every = (features(history, 16, 1, which, seen) for which in (chunks, EVERY))
    assert np.array_equal(some[0], every[0][chunks])
    assert np.array_equal(some[1], every[1][chunks])


@pytest.mark.parametrize(("windows", "phases"), [(8, 1), (8, 4), (9, 4), (13, 5), (16, 4), (24, 1), (8, 8), (12, 40)])
def test_training_rows_exist_for_every_shape_of_history_and_repeat_themselves(windows, phases):
    history, _ = popularity(chunks=30, windows=windows, phases=phases)
    smoothing = EwmaForecaster().fit(history).smoothing
    one, two = (training_rows(history, smoothing) for _ in range(2))
    assert np.isfinite(one.columns).all()
    assert len(one.columns) == len(one.level) == len(one.count) > 0
    assert one.level.min() > 0
    assert np.array_equal(one.columns, two.columns)
    assert one.view.depth >= 4


def test_training_rows_are_a_sample_of_chunks_that_were_known():
    counts = np.random.default_rng(0).poisson(3.0, (12, 500))
    counts[:11, 200:] = 0
    history = history_of(counts, 1)
    rows = training_rows(history, EwmaForecaster().fit(history).smoothing, 300)
    assert len(rows.count) == 300
    # Chunks that appear in the last window only are not learned from: nothing was known of them.
    lags = rows.columns[:, rows.view.names.index("age")]
    assert lags.min() > 0
    assert set(rows.count) <= set(counts[9:, :200].ravel())


def test_every_phase_is_a_target():
    history = sweep(epochs=4)
    rows = training_rows(history, EwmaForecaster().fit(history).smoothing)
    steps = rows.columns[:, rows.view.names.index("step")]
    assert set(steps) == {1, 2, 3, 4}
    assert (rows.count > 0).mean() == pytest.approx(0.25)
