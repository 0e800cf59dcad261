"""MIN is a bound: nothing that knows the trace may beat it, and LRU on shuffled epochs must fall far behind it."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshard.simulate.belady import NEVER, next_uses, plan_residency


def best_hits(trace, capacity):
    """Most hits that any demand policy with bypass can get, by trying all of them (equal sizes)."""

    @cache
    def best(i, resident):
        if i == len(trace):
            return 0
        chunk = trace[i]
        if chunk in resident:
            return 1 + best(i + 1, resident)
        options = [resident]  # bypass
        if len(resident) < capacity:
            options.append(resident | {chunk})
        options += [(resident - {victim}) | {chunk} for victim in resident]
        return max(best(i + 1, option) for option in options)

    return best(0, frozenset())


@given(trace=st.lists(st.integers(0, 4), min_size=1, max_size=11), capacity=st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_min_equals_the_best_of_all_policies_for_equal_sizes(trace, capacity):
    plan = plan_residency(np.array(trace, np.int32), np.ones(5, np.int64), capacity)
    assert plan.hit.sum() == best_hits(tuple(trace), capacity)


@given(
    trace=st.lists(st.integers(0, 7), min_size=1, max_size=60),
    sizes=st.lists(st.integers(1, 9), min_size=8, max_size=8),
    capacity=st.integers(0, 30),
    resident=st.frozensets(st.integers(0, 7)),
)
@settings(max_examples=150, deadline=None)
def test_the_schedule_never_holds_more_than_its_capacity_and_hits_only_what_it_kept(trace, sizes, capacity, resident):
    chunks, nbytes = np.array(trace, np.int32), np.array(sizes, np.int64)
    later = np.full(8, NEVER, np.int64)
    later[:2] = len(trace) + np.arange(2)
    plan = plan_residency(chunks, nbytes, capacity, resident=resident, later=later)
    held = set(plan.kept_at_start)
    assert held <= resident
    for touch, chunk in enumerate(trace):
        assert sum(sizes[c] for c in held) <= capacity
        assert plan.hit[touch] == (chunk in held)
        held.discard(chunk)
        if plan.keep[touch]:
            held.add(chunk)
    assert sum(sizes[c] for c in held) <= capacity
    assert held <= {0, 1}  # nothing else is wanted beyond the trace
    assert held == plan.kept_at_end


@pytest.mark.parametrize("fraction", [0.1, 0.35, 0.5, 0.8])
def test_min_equals_the_cache_fraction_on_uniform_epochs(fraction):
    rng = np.random.default_rng(0)
    n = 400
    trace = np.concatenate([rng.permutation(n) for _ in range(10)]).astype(np.int32)
    plan = plan_residency(trace, np.ones(n, np.int64), int(fraction * n))
    assert plan.hit[2 * n : -n].mean() == pytest.approx(fraction, abs=0.005)


def test_next_uses_point_to_the_following_touch_of_the_same_chunk():
    assert next_uses(np.array([3, 1, 3, 3, 1, 2], np.int32)).tolist() == [2, 4, 3, NEVER, NEVER, NEVER]


def test_what_a_forecast_expects_is_kept_beyond_the_trace():
    chunks, nbytes = np.array([0, 1, 2], np.int32), np.ones(3, np.int64)
    plan = plan_residency(chunks, nbytes, 2, later=np.array([4, 5, 3]))
    assert plan.keep.tolist() == [True, False, True]


@given(
    trace=st.lists(st.integers(0, 7), min_size=1, max_size=60),
    cut=st.integers(0, 60),
    capacity=st.integers(0, 8),
    resident=st.frozensets(st.integers(0, 7)),
)
@settings(max_examples=150, deadline=None)
def test_planning_in_two_parts_with_the_next_part_in_sight_is_as_good_as_planning_all_at_once(
    trace, cut, capacity, resident
):
    chunks, nbytes = np.array(trace, np.int32), np.ones(8, np.int64)
    whole = plan_residency(chunks, nbytes, capacity, resident=resident)
    head, tail = chunks[:cut], chunks[cut:]
    later = np.full(8, NEVER, np.int64)
    touched, first = np.unique(tail, return_index=True)
    later[touched] = len(head) + first
    one = plan_residency(head, nbytes, capacity, resident=resident, later=later)
    two = plan_residency(tail, nbytes, capacity, resident=one.kept_at_end)
    assert one.hit.sum() + two.hit.sum() == whole.hit.sum()
    assert two.kept_at_start == one.kept_at_end
