"""Where there are very many chunks, models are compared on a sample of them, and all are ranked."""

import numpy as np
import pytest
from forecast_world import history_of
from hypothesis import given
from hypothesis import strategies as st

import foreshard.forecast.sampling
from foreshard.forecast.plots import forecast_plots
from foreshard.forecast.ranking import forecast_chunks
from foreshard.forecast.sampling import sampled


def zipf(chunks, windows=9, phases=3, seed=3):
    draw = np.random.default_rng(seed)
    rate = 1 / np.arange(1, chunks + 1) ** 0.8
    rate = draw.permutation(rate * 3 * chunks / rate.sum())
    return history_of(draw.poisson(rate, (windows, chunks)), phases)


@given(chunks=st.integers(1, 60), most=st.integers(1, 70), seed=st.integers(0, 99))
def test_a_sample_is_some_whole_columns_in_their_order(chunks, most, seed):
    counts = np.random.default_rng(seed).integers(0, 3, (4, chunks)) * 100.0 + np.arange(chunks)
    history = history_of(counts, 2)
    some = sampled(history, most)
    assert some.chunks == min(chunks, most)
    numbers = (some.counts[0] % 100).astype(int)
    assert (np.diff(numbers) > 0).all()
    assert (some.counts == history.counts[:, numbers]).all()
    assert (some.epochs == history.epochs).all()
    assert (some.phases == history.phases).all()
    assert (sampled(history, most).counts == some.counts).all()
    if most >= chunks:
        assert some is history


def test_a_sample_has_the_shares_of_the_whole():
    history = zipf(50_000)

    def shares(counts):
        total = np.sort(counts.sum(0))[::-1]
        return [total[: len(total) * tenth // 10].sum() / total.sum() for tenth in (1, 2, 5)]

    assert shares(sampled(history, 5000).counts) == pytest.approx(shares(history.counts), abs=0.01)


def test_all_chunks_are_ranked_by_what_was_chosen_on_a_sample(monkeypatch):
    history = zipf(4000)
    whole = forecast_chunks(history, cache_fraction=0.1, names=["last", "ewma"])
    monkeypatch.setattr(foreshard.forecast.sampling, "TESTED", 500)
    result = forecast_chunks(history, cache_fraction=0.1, names=["last", "ewma"])
    assert len(result.backtest.held_out.actual) == 500
    assert result.chosen == whole.chosen == "ewma"
    assert result.table.num_rows == 4000
    assert result.table.column("expected").equals(whole.table.column("expected"))
    assert result.error == pytest.approx(whole.error, abs=0.05)
    hit_mass = [
        next(row["hit_mass"] for row in each.backtest.summary() if row["model"] == "ewma") for each in (whole, result)
    ]
    assert hit_mass[1] == pytest.approx(hit_mass[0], abs=0.03)
    assert set(forecast_plots(result, history, cache_fraction=0.1)) == {"top_chunks", "calibration", "hit_mass"}
