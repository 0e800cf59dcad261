"""Chunk boundaries: exact against brute force, never worse than a fixed size, and driven by the costs."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshard.errors import PlanError
from foreshard.layout.cost import CostModel, expected_touches, layout_cost
from foreshard.layout.sizing import fixed_offsets, fixed_sizes, size_chunks
from foreshard.layout.windowed import SizingTerms, best_boundaries, cut_atoms

ROW_BYTES = 100.0


def total(heat: np.ndarray, offsets: np.ndarray, steps: int, cost: CostModel, error: float = 0.0) -> float:
    chunk_heat = np.add.reduceat(heat, offsets[:-1])
    return layout_cost(chunk_heat, np.diff(offsets) * ROW_BYTES, steps, cost, error=error).total_s


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0, 50), min_size=4, max_size=11),
    st.floats(1e-9, 1e-3) | st.just(np.inf),
    st.floats(0, 1e-2),
    st.sampled_from([0.0, 0.4]),
)
def test_the_dynamic_programme_equals_brute_force(heat, price, overhead, error):
    # 2 to 4 rows a chunk, atoms of one row.
    terms = SizingTerms(ROW_BYTES, 20, CostModel(1e-3, 1e5, 500, overhead), 2, 4, error)
    values = np.array(heat)

    def cost_of(offsets: tuple[int, ...]) -> float:
        edges = np.array(offsets)
        nbytes = np.diff(edges) * ROW_BYTES
        fetched = expected_touches(np.add.reduceat(values, edges[:-1]), 20) * terms.cost.fetch_s(nbytes)
        return float((np.minimum(fetched, price * nbytes + error * fetched) + overhead).sum())

    m = len(heat)
    covers = [
        (0, *cuts, m)
        for size in range(m)
        for cuts in combinations(range(1, m), size)
        if all(2 <= b - a <= 4 for a, b in zip((0, *cuts), (*cuts, m), strict=True))
    ]
    (found,) = best_boundaries(cut_atoms(values, 1), terms, np.array([price]))
    assert tuple(found.tolist()) in covers
    assert cost_of(tuple(found)) == pytest.approx(min(map(cost_of, covers)), rel=1e-9, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 300), st.floats(0, 30)), min_size=1, max_size=6),
    st.floats(0, 1.2),
    st.sampled_from([0.0, 1e-4, 1e-2]),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.integers(0, 3),
)
def test_sizing_covers_keeps_bounds_and_is_never_worse_than_a_fixed_size(groups, memory, overhead, error, seed):
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(len(groups)), [rows for rows, _ in groups]).astype(np.int32)
    heat = rng.exponential(1.0, len(group)) * np.repeat([h for _, h in groups], [rows for rows, _ in groups])
    cost = CostModel(1e-3, 1e7, memory * len(group) * ROW_BYTES, overhead)
    offsets = size_chunks(heat, group, ROW_BYTES, 50, cost, min_rows=8, max_rows=64, atom_rows=8, error=error)
    rows = np.diff(offsets)
    assert offsets[0] == 0
    assert offsets[-1] == len(group)
    assert rows.max() <= 64
    assert (group[offsets[:-1]] == group[offsets[1:] - 1]).all()
    small = rows < 8
    assert (rows[small] == np.bincount(group)[group[offsets[:-1]]][small]).all()
    fixed = min(total(heat, fixed_offsets(group, size, 8), 50, cost, error) for size in fixed_sizes(8, 64))
    assert total(heat, offsets, 50, cost, error) <= fixed * (1 + 1e-12)


def spiky(m: int) -> tuple[np.ndarray, np.ndarray]:
    heat = np.where(np.arange(m) < m // 10, 20.0, 0.02)
    return heat, (heat < 1).astype(np.int32)


def test_upkeep_makes_hot_chunks_small_and_cold_ones_large():
    heat, group = spiky(20_000)
    # Draws are rare against steps: one touch per draw, so rows beside a wanted one are waste.
    offsets = size_chunks(
        heat, group, ROW_BYTES, 10**7, CostModel(1e-4, 2e8, 0, 1e-2), min_rows=32, max_rows=4096, atom_rows=32
    )
    rows = np.diff(offsets)
    hot, cold = rows[offsets[:-1] < 2000].mean(), rows[offsets[:-1] >= 2000].mean()
    # The closed form is S = sqrt(upkeep * bandwidth / (heat * row bytes)): 32 rows (31.6) and 1,000 rows.
    assert hot == pytest.approx(32, rel=0.1)
    assert cold == pytest.approx(1000, rel=0.15)


def test_draws_in_every_step_make_hot_chunks_large():
    # The other regime (research/optimise.md §2.5): every step touches every chunk, so requests are what counts.
    heat, group = spiky(20_000)
    offsets = size_chunks(
        heat, group, ROW_BYTES, 10, CostModel(1e-1, 2e8, 0, 0), min_rows=32, max_rows=1024, atom_rows=32
    )
    assert np.diff(offsets)[offsets[:-1] < 2000].mean() == 1000


def test_variable_sizes_beat_the_best_fixed_size_on_spiky_heat():
    heat, group = spiky(20_000)
    cost = CostModel(1e-4, 2e8, 0, 1e-2)
    offsets = size_chunks(heat, group, ROW_BYTES, 10**7, cost, min_rows=32, max_rows=4096, atom_rows=32)
    fixed = min(total(heat, fixed_offsets(group, size, 32), 10**7, cost) for size in fixed_sizes(32, 4096))
    assert total(heat, offsets, 10**7, cost) < 0.95 * fixed


def test_memory_is_used_for_the_hot_rows():
    heat, group = spiky(20_000)
    cost = CostModel(1e-4, 2e8, 2500 * ROW_BYTES, 1e-2)
    offsets = size_chunks(heat, group, ROW_BYTES, 10**7, cost, min_rows=32, max_rows=4096, atom_rows=32)
    found = layout_cost(np.add.reduceat(heat, offsets[:-1]), np.diff(offsets) * ROW_BYTES, 10**7, cost)
    assert found.requests <= heat[2000:].sum() * (1 + 1e-9)


def test_an_uncertain_forecast_keeps_resident_chunks_small():
    heat, group = spiky(20_000)

    def hot_rows(error: float) -> float:
        # Everything fits in memory: what is left is upkeep, and the fetches of what the forecast got wrong.
        cost = CostModel(1e-4, 2e8, 20_000 * ROW_BYTES * 0.9, 1e-2)
        offsets = size_chunks(
            heat, group, ROW_BYTES, 10**7, cost, min_rows=32, max_rows=2048, atom_rows=32, error=error
        )
        return float(np.diff(offsets)[offsets[:-1] < 2000].mean())

    assert hot_rows(0.0) == 2000
    assert hot_rows(0.5) < 500


def test_uniform_heat_gets_equal_chunks():
    offsets = size_chunks(
        np.ones(10_000), np.zeros(10_000, np.int32), ROW_BYTES, 10**6, CostModel(1e-4, 2e8, 1e5, 1e-3),
        min_rows=64, max_rows=1024, atom_rows=64,
    )  # fmt: skip
    rows = np.diff(offsets)
    # Chunks differ by one atom at most; where sizes tie, the fixed size wins and they differ by a row.
    assert np.ptp(rows) <= 65


def test_no_draws_at_all_give_the_fewest_chunks():
    offsets = size_chunks(
        np.zeros(1000), np.zeros(1000, np.int32), ROW_BYTES, 10, CostModel(1e-3, 1e8, 1e3, 1e-3),
        min_rows=10, max_rows=100, atom_rows=10,
    )  # fmt: skip
    assert len(offsets) == 11


def test_bad_sizing_input_is_refused():
    cost = CostModel(1e-3, 1e8, 1e3, 0)
    group = np.zeros(10, np.int32)
    with pytest.raises(PlanError, match="0 heats and 0 groups"):
        size_chunks(np.zeros(0), group[:0], 1.0, 1, cost, min_rows=1, max_rows=2, atom_rows=1)
    with pytest.raises(PlanError, match="max_rows 3 do not fit"):
        size_chunks(np.zeros(10), group, 1.0, 1, cost, min_rows=2, max_rows=3, atom_rows=1)
    with pytest.raises(PlanError, match="group codes decrease"):
        size_chunks(np.zeros(10), -np.arange(10, dtype=np.int32), 1.0, 1, cost, min_rows=1, max_rows=2, atom_rows=1)
