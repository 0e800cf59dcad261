import numpy as np
import pytest
from forecast_world import history_of, popularity, shuffled, sweep

from foreshard.errors import ConfigError, LogError
from foreshard.forecast.base import Forecast
from foreshard.forecast.plots import forecast_plots
from foreshard.forecast.ranking import FORECAST_SCHEMA, forecast_chunks, rank_chunks
from foreshard.forecast.registry import default_names


def forecast_of(expected, probability, model="m"):
    expected = np.asarray(expected, float)
    return Forecast(expected, np.asarray(probability, float), expected * 0.5, expected * 2, model)


def column(table, name):
    return table.column(name).to_numpy()


def test_chunks_are_ranked_by_expected_draws_not_by_probability():
    table = rank_chunks({"m": forecast_of([[1, 9, 3]], [[0.9, 0.2, 0.99]])}, None, 1)
    assert table.schema.equals(FORECAST_SCHEMA)
    assert column(table, "chunk").tolist() == [1, 2, 0]
    assert column(table, "rank").tolist() == [0, 1, 2]
    assert set(table.column("model").to_pylist()) == {"m"}


def test_ties_are_broken_by_chunk_id():
    table = rank_chunks({"m": forecast_of([[5, 7, 5, 7]], [[0.5] * 4])}, None, 1)
    assert column(table, "chunk").tolist() == [1, 3, 0, 2]


def test_an_epoch_is_the_sum_of_its_phases():
    table = rank_chunks({"m": forecast_of([[4, 1], [2, 1], [99, 99]], [[0.5, 0.1], [0.5, 0.9], [1, 1]])}, None, 2)
    assert column(table, "expected").tolist() == [6, 2]
    assert column(table, "lower").tolist() == [3, 1]
    assert column(table, "upper").tolist() == [12, 4]
    assert column(table, "probability") == pytest.approx([0.75, 0.91])
    assert column(table, "next_probability") == pytest.approx([0.5, 0.1])
    assert column(table, "first_phase").tolist() == [0, 1]


def test_the_first_phase_of_a_sequential_reader_is_the_one_it_reads_in():
    table = forecast_chunks(sweep(), cache_fraction=0.1, names=["ewma"]).table
    assert np.array_equal(column(table, "first_phase"), column(table, "chunk") * 4 // 40)


def test_forecasts_that_do_not_fit_the_backtest_are_refused():
    short = forecast_of([[1, 2]], [[0.1, 0.2]])
    tested = forecast_chunks(sweep(), cache_fraction=0.1, names=["ewma"]).backtest
    with pytest.raises(ConfigError, match="has 1 windows, an epoch 4"):
        rank_chunks({"ewma": short}, tested, 4)
    with pytest.raises(ConfigError, match="'ewma' is not among the forecasts"):
        rank_chunks({"last": short}, tested, 1)
    with pytest.raises(ConfigError, match="need a backtest"):
        rank_chunks({"last": short, "ewma": short}, None, 1)


def test_the_whole_way_finds_the_chunks_that_will_be_hot():
    history, rates = popularity(chunks=300, growth=0.05, seed=3)
    result = forecast_chunks(history, cache_fraction=0.1)
    truth = rates[16:].sum(0)
    top = column(result.table, "chunk")[:30]
    assert truth[top].sum() >= 0.98 * np.sort(truth)[-30:].sum()
    assert result.error < 0.2
    inside = (column(result.table, "lower") <= truth[column(result.table, "chunk")]) & (
        truth[column(result.table, "chunk")] <= column(result.table, "upper")
    )
    assert inside.mean() > 0.75
    rows = {row["model"]: row["status"] for row in result.backtest.summary()}
    assert rows.keys() == {*default_names(history), "last_01", "last_platt"}
    assert {name for name, status in rows.items() if status == "baseline"} == {"last_01", "last_platt"}


def test_the_same_history_gives_the_same_table():
    history, _ = popularity(chunks=40, growth=0.05)
    first, second = (forecast_chunks(history, cache_fraction=0.1) for _ in range(2))
    assert first.table.equals(second.table)
    assert first.backtest.scores.equals(second.backtest.scores)
    assert (first.chosen, first.error, first.backtest.calibration) == (
        second.chosen,
        second.error,
        second.backtest.calibration,
    )


def test_every_chunk_is_ranked_once():
    table = forecast_chunks(shuffled(), cache_fraction=0.1, names=["ewma"]).table
    assert sorted(column(table, "chunk")) == list(range(60))


def test_shuffled_epochs_are_forecast_flat():
    """Every chunk is read equally often, so no ranking of them captures more than its share."""
    tested = forecast_chunks(shuffled(epochs=8), cache_fraction=0.1, names=["last", "ewma", "ensemble"]).backtest
    assert all(row["hit_mass"] == pytest.approx(0.1, abs=0.005) for row in tested.summary())


def test_calibration_is_applied_to_the_table():
    rng = np.random.default_rng(1)
    # Chunks are read in bursts, so the last window says far less than a Poisson law takes it to.
    history = history_of(rng.poisson(np.repeat([0.2, 2.0], 200), (16, 400)) * 30)
    result = forecast_chunks(history, cache_fraction=0.1, names=["last"])
    assert result.backtest.calibration is not None
    plain = 1 - np.exp(-history.counts[-1])
    assert column(result.table, "next_probability") == pytest.approx(
        result.backtest.calibration.apply(plain)[column(result.table, "chunk")]
    )


@pytest.mark.parametrize("windows", [1, 2])
def test_too_short_a_history_gives_a_moving_average_that_is_not_trusted(windows):
    result = forecast_chunks(history_of(np.arange(10.0 * windows).reshape(windows, 10)), cache_fraction=0.1)
    assert (result.chosen, result.backtest, result.error) == ("ewma", None, 1.0)
    assert column(result.table, "chunk")[0] == 9


def test_what_the_chosen_model_does_without_is_told_with_the_forecast():
    for windows in (6, 7):  # at the end of an epoch or not
        history, _ = popularity(chunks=20, windows=windows, phases=2)
        result = forecast_chunks(history, cache_fraction=0.1, names=["ensemble"])
        assert result.note.startswith(f"without gbm: needs 8 windows, had {windows} at an origin; without logistic: ")
    assert forecast_chunks(history, cache_fraction=0.1, names=["ewma"]).note == ""


def test_an_empty_history_is_refused():
    with pytest.raises(LogError, match="nothing to forecast from"):
        forecast_chunks(history_of(np.empty((0, 5))), cache_fraction=0.1)
    with pytest.raises(LogError, match="0 chunks"):
        forecast_chunks(history_of(np.empty((5, 0))), cache_fraction=0.1)


def test_unknown_forecasters_are_refused_even_if_unused():
    with pytest.raises(ConfigError, match="oracle"):
        forecast_chunks(history_of(np.ones((1, 2))), cache_fraction=0.1, names=["oracle"])


def test_plots_are_small_pngs_of_what_is_known():
    history, _ = popularity(chunks=300, windows=40, growth=0.05)
    result = forecast_chunks(history, cache_fraction=0.1, names=["last", "ewma", "ensemble"])
    plots = forecast_plots(result, history)
    assert set(plots) == {"calibration", "hit_mass", "top_chunks"}
    assert all(raw.startswith(b"\x89PNG") and len(raw) <= 30_000 for raw in plots.values())
    assert forecast_plots(result, history) == plots
    early = forecast_chunks(history.until(2), cache_fraction=0.1)
    assert set(forecast_plots(early, history.until(2))) == {"top_chunks"}


def test_plots_of_a_silent_dataset_can_be_drawn():
    history = history_of(np.zeros((8, 3)))
    result = forecast_chunks(history, cache_fraction=0.5, names=["ewma"])
    assert all(raw.startswith(b"\x89PNG") for raw in forecast_plots(result, history).values())
