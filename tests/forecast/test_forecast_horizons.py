"""How far ahead forecasts look: whole epochs also from mid-epoch, and any number of phases."""

import numpy as np
import pytest
from forecast_world import popularity, sweep
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshard.errors import ConfigError
from foreshard.forecast.ranking import FORECAST_SCHEMA, ForecastResult, forecast_chunks, forecast_phases

PHASES, CHUNKS = 4, 40
PLACE = np.arange(CHUNKS) * PHASES // CHUNKS
"""Phase in which a sweep reads each chunk."""


def by_chunk(table, name):
    values = np.empty(table.num_rows)
    values[table.column("chunk").to_numpy()] = table.column(name).to_numpy()
    return values


UNTESTED = ForecastResult(FORECAST_SCHEMA.empty_table(), None, "ewma", 1.0)
"""A forecast by `ewma` whose probabilities nobody calibrated."""


@pytest.mark.parametrize("windows", range(8, 21))
def test_the_next_epoch_is_a_whole_one_wherever_the_history_ends(windows, monkeypatch):
    monkeypatch.setattr("foreshard.forecast.ranking.MIN_WINDOWS", 99)  # no backtest, hence no calibration
    history = sweep(CHUNKS, 5, PHASES).until(windows)
    table = forecast_chunks(history, cache_fraction=0.1).table
    assert by_chunk(table, "first_phase").tolist() == PLACE.tolist()
    assert by_chunk(table, "expected") == pytest.approx(np.full(CHUNKS, 50.0))
    assert (by_chunk(table, "next_probability") > 0.99).tolist() == (PLACE == 0).tolist()


@given(windows=st.integers(8, 20), ahead=st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_phases_ahead_are_counted_from_the_end_of_the_history(windows, ahead):
    history = sweep(CHUNKS, 5, PHASES).until(windows)
    table = forecast_phases(history, ahead, UNTESTED)
    assert table.schema.equals(FORECAST_SCHEMA)
    waits = (PLACE - windows) % PHASES  # phases until a chunk's turn
    turns = np.array([len(range(int(wait), ahead, PHASES)) for wait in waits])
    assert by_chunk(table, "expected") == pytest.approx(50.0 * turns)
    wanted = turns > 0
    assert by_chunk(table, "first_phase")[wanted].tolist() == waits[wanted].tolist()
    assert (by_chunk(table, "probability") > 0.99).tolist() == wanted.tolist()
    assert (by_chunk(table, "next_probability") > 0.99).tolist() == (waits == 0).tolist()
    # Those of the next phases come first, whatever their number.
    assert wanted[table.column("chunk").to_numpy()][: wanted.sum()].all()


@pytest.mark.parametrize("name", ["last", "ewma", "trend", "prophet", "ensemble"])
def test_every_forecaster_looks_beyond_an_epoch(name):
    history, rates = popularity(chunks=60, windows=14)
    result = forecast_chunks(history, cache_fraction=0.2, names=[name])
    assert by_chunk(result.table, "expected").sum() == pytest.approx(rates[0].sum() * 4, rel=0.35)
    for ahead in (1, 6, 11):
        expected = by_chunk(forecast_phases(history, ahead, result), "expected")
        assert np.isfinite(expected).all()
        assert expected.sum() == pytest.approx(rates[0].sum() * ahead, rel=0.35)


def test_an_epoch_from_its_start_is_its_phases_ahead():
    history, _ = popularity(chunks=60)
    epoch = forecast_chunks(history, cache_fraction=0.2, names=["ewma"])
    assert forecast_phases(history, 4, epoch).equals(epoch.table)


def test_no_phase_ahead_is_refused():
    history, _ = popularity(chunks=5)
    with pytest.raises(ConfigError, match="0 phases ahead"):
        forecast_phases(history, 0, UNTESTED)
