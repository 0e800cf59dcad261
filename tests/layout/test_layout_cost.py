"""The residency model and the fit of its prices."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshard.errors import PlanError
from foreshard.layout.cost import CostModel, expected_touches, fit_cost_model, layout_cost

HEAT = np.array([10.0, 1.0, 5.0])
SIZES = np.array([100.0, 100.0, 100.0])


def test_touches_are_draws_when_rare_and_steps_when_frequent():
    assert expected_touches(np.array([0.0]), 100)[0] == 0
    assert expected_touches(np.array([1.0]), 100_000)[0] == pytest.approx(1.0, rel=1e-4)
    assert expected_touches(np.array([1e6]), 100)[0] == pytest.approx(100.0)
    # Binomial(h = 50 draws, one of T = 10 steps each): T (1 - (1 - 1/T)^h) is close to T (1 - exp(-h / T)).
    assert expected_touches(np.array([50.0]), 10)[0] == pytest.approx(10 * (1 - 0.9**50), rel=0.01)


def test_memory_holds_the_chunks_with_most_touches_per_byte():
    cost = CostModel(latency_s=0.01, bandwidth=1e4, memory_bytes=250, chunk_overhead_s=0.5)
    found = layout_cost(HEAT, SIZES, 10**9, cost)
    assert found.requests == pytest.approx(1.0)
    assert found.bytes == pytest.approx(100.0)
    assert found.seconds == pytest.approx(0.01 + 100 / 1e4)
    assert found.resident_bytes == 200
    assert found.upkeep_s == pytest.approx(1.5)
    assert found.total_s == pytest.approx(found.seconds + found.upkeep_s)
    # A small chunk of the same heat is denser, so it is held first.
    tight = layout_cost(np.array([10.0, 10.0]), np.array([200.0, 100.0]), 10**9, CostModel(0.01, 1e4, 200, 0))
    assert tight.resident_bytes == 100
    assert tight.bytes == pytest.approx(2000.0)


def test_an_uncertain_forecast_is_worth_no_more_than_memory_filled_at_random():
    cost = CostModel(0.01, 1e4, 100, 0)
    total = float((expected_touches(HEAT, 10**9) * cost.fetch_s(SIZES)).sum())
    sure, half, none = (layout_cost(HEAT, SIZES, 10**9, cost, error=e).seconds for e in (0.0, 0.5, 1.0))
    assert none == pytest.approx(total * 2 / 3)
    assert sure == pytest.approx(total * 6 / 16)
    assert half == pytest.approx((sure + none) / 2)


@given(st.lists(st.tuples(st.floats(0, 1e4), st.integers(1, 10**6)), min_size=1, max_size=20), st.floats(0, 1))
def test_more_memory_never_costs_more(chunks, error):
    heat, sizes = (np.array(values, float) for values in zip(*chunks, strict=True))
    costs = [
        layout_cost(heat, sizes, 100, CostModel(1e-3, 1e8, share * sizes.sum(), 0), error=error).seconds
        for share in (0.0, 1.0)
    ]
    assert -1e-9 <= costs[1] <= costs[0]
    assert costs[1] == pytest.approx(0, abs=1e-9 + 1e-12 * costs[0])


def events(latency_s: float, bandwidth: float, sizes: np.ndarray, *, outliers: int = 0) -> pa.Table:
    rng = np.random.default_rng(1)
    seconds = latency_s + sizes / bandwidth + rng.normal(0, 1e-5, len(sizes))
    seconds[:outliers] += 5.0
    hit = np.zeros(len(sizes), bool)
    hit[::7] = True
    micros = np.where(hit, 0, seconds * 1e6)
    return pa.table({"hit": hit, "bytes": sizes.astype(np.int32), "fetch_us": np.maximum(micros, 0).astype(np.int32)})


def test_prices_are_measured_from_fetches_whatever_the_outliers():
    sizes = np.random.default_rng(0).uniform(1e4, 1e6, 2000)
    cost = fit_cost_model(events(3e-3, 5e7, sizes, outliers=150), memory_bytes=7, chunk_overhead_s=0.25)
    assert cost.latency_s == pytest.approx(3e-3, rel=0.05)
    assert cost.bandwidth == pytest.approx(5e7, rel=0.05)
    assert (cost.memory_bytes, cost.chunk_overhead_s) == (7, 0.25)


def test_chunks_of_one_size_tell_the_latency_only():
    cost = fit_cost_model(events(3e-3, 5e7, np.full(500, 1e5)), memory_bytes=7, chunk_overhead_s=0)
    assert cost.bandwidth == 200e6
    assert cost.latency_s == pytest.approx(3e-3 + 1e5 / 5e7 - 1e5 / 200e6, rel=0.02)


def test_without_events_the_defaults_hold():
    few = events(3e-3, 5e7, np.linspace(1e4, 1e6, 15))
    for log in (None, few, few.slice(0, 0)):
        assert fit_cost_model(log, memory_bytes=1, chunk_overhead_s=2) == CostModel(1e-3, 200e6, 1, 2)


def test_bad_prices_are_refused():
    with pytest.raises(PlanError, match="bandwidth is 0"):
        CostModel(1e-3, 0, 1, 1)
    with pytest.raises(PlanError, match="memory_bytes is -1"):
        CostModel(1e-3, 1, -1, 1)
    with pytest.raises(PlanError, match=r"error is 1\.5"):
        layout_cost(HEAT, SIZES, 10, CostModel(0, 1, 0, 0), error=1.5)
    with pytest.raises(PlanError, match="steps is 0"):
        layout_cost(HEAT, SIZES, 0, CostModel(0, 1, 0, 0))
