"""Chunks of one history are forecast once and in blocks, and nobody can tell from what comes out."""

import numpy as np
import pytest
from forecast_world import history_of, popularity
from hypothesis import given
from hypothesis import strategies as st

from foreshard.forecast import alike, ewma, tsb
from foreshard.forecast.alike import alike_chunks
from foreshard.forecast.ewma import EwmaForecaster
from foreshard.forecast.logistic import LogisticForecaster
from foreshard.forecast.registry import make_forecasters
from foreshard.forecast.tsb import TsbForecaster


def cold(chunks=3000, windows=12, seed=5):
    """Most chunks are hardly ever read, so that many have the same history; some are never read."""
    draw = np.random.default_rng(seed)
    return history_of(draw.poisson(draw.pareto(1.0, chunks) * 0.05, (windows, chunks)), 1)


@given(chunks=st.integers(0, 60), windows=st.integers(1, 4), most=st.integers(0, 3), seed=st.integers(0, 99))
def test_chunks_are_of_a_kind_if_and_only_if_their_counts_are_equal(chunks, windows, most, seed):
    counts = np.random.default_rng(seed).integers(0, most + 1, (windows, chunks)) * 0.5
    found = alike_chunks(history_of(counts, 1))
    assert found.read.tolist() == np.flatnonzero(counts.any(0)).tolist()
    assert (counts[:, found.one_of][:, found.kind] == counts[:, found.read]).all()
    assert len(found.one_of) == len({tuple(column) for column in counts[:, found.read].T})


def test_where_different_histories_have_one_key_each_chunk_is_a_kind_of_its_own(monkeypatch):
    monkeypatch.setattr(alike, "_FACTOR", np.uint64(0))  # every key is 0
    found = alike_chunks(history_of([[1, 2, 0, 1], [0, 3, 0, 0]], 1))
    assert found.read.tolist() == found.one_of.tolist() == [0, 1, 3]
    assert found.kind.tolist() == [0, 1, 2]


def test_a_chunks_probability_is_the_same_bits_whether_it_is_looked_at_by_itself_or_as_one_of_a_kind(monkeypatch):
    history = cold()
    kinds = alike_chunks(history)
    assert len(kinds.one_of) < 0.5 * len(kinds.read)
    together = LogisticForecaster().fit(history).predict(1)
    monkeypatch.setattr(alike, "_FACTOR", np.uint64(0))
    alone = LogisticForecaster().fit(history).predict(1)
    assert np.array_equal(together.probability, alone.probability)
    assert together.probability[0, kinds.read].min() > 0


@pytest.mark.parametrize("block", [1, 7, 64])
def test_averages_are_the_same_bits_in_blocks_of_any_size(monkeypatch, block):
    history, _ = popularity(chunks=100)
    whole = [make().fit(history).predict(5) for make in (EwmaForecaster, TsbForecaster)]
    for module in (ewma, tsb):
        monkeypatch.setattr(module, "BLOCK", block)
    parts = [make().fit(history).predict(5) for make in (EwmaForecaster, TsbForecaster)]
    for one, other in zip(whole, parts, strict=True):
        assert np.array_equal(one.expected, other.expected)
        assert np.array_equal(one.probability, other.probability)
        assert np.array_equal(one.upper, other.upper)


def test_the_moving_average_is_fitted_once_for_all_who_start_from_it(monkeypatch):
    fits = []
    fit = EwmaForecaster.fit

    def counted(self, history):
        fits.append(history)
        return fit(self, history)

    monkeypatch.setattr(EwmaForecaster, "fit", counted)
    history = cold(chunks=200)
    for forecaster in make_forecasters(["ewma", "ensemble"]).values():
        forecaster.fit(history)
    assert len(fits) == 1
