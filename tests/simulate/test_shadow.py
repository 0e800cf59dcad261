"""Policies side by side: what a window is counted as, what is pinned, and what no policy can do."""

import numpy as np
import pytest

from foreshard.access.trace import Trace, equal_starts
from foreshard.errors import ConfigError
from foreshard.simulate.belady import plan_residency
from foreshard.simulate.shadow import NOTHING, POLICIES, REACTIVE, Policy, Shadow, hybrid, rank_by_worth


def trace_of(objects, windows, nbytes=None):
    objects = np.asarray(objects, np.int32)
    count = int(objects.max()) + 1
    nbytes = np.ones(count, np.int64) if nbytes is None else np.asarray(nbytes, np.int64)
    return Trace(objects, np.arange(count).astype(object), nbytes, equal_starts(len(objects), windows), 1)


def test_a_window_is_counted_in_objects_and_in_bytes():
    trace = trace_of([0, 1, 2, 0, 2, 1], 1, [5, 3, 2])
    shadow = Shadow(trace, 10, [Policy("lru", 0.0, "lru"), Policy("pin", 1.0, None)])
    found = shadow.run(0, np.array([5.0, 9.0, 0.0]))
    lru, pin = found["lru"], found["pin"]
    assert (lru.requests, lru.hits, lru.loads, lru.ahead) == (6, 3, 3, 0)
    assert (lru.request_bytes, lru.hit_bytes, lru.load_bytes) == (20, 10, 10)
    assert (pin.hits, pin.loads, pin.ahead) == (4, 4, 2)  # 0 and 1 ahead, and 2 twice on demand
    assert (pin.hit_bytes, pin.load_bytes) == (16, 8 + 4)
    assert pin.hit_rate == pytest.approx(4 / 6)
    assert NOTHING.hit_rate == 0


def test_what_stays_pinned_is_not_fetched_again():
    trace = trace_of([0, 1, 0, 1, 2, 3], 3)
    shadow = Shadow(trace, 2, [Policy("pin", 1.0, None)])
    ahead = [shadow.run(w, np.array(expected))["pin"].ahead for w, expected in enumerate([[1, 1, 0, 0]] * 2)]
    assert ahead == [2, 0]
    assert shadow.run(2, None)["pin"].ahead == 0  # nobody can tell: it stays
    assert shadow.holds("pin").tolist() == [True, True, False, False]


def test_worth_is_requests_per_byte_and_nothing_is_fetched_that_nobody_expects():
    ranked = rank_by_worth(np.array([4.0, 0.0, 3.0, 3.0, 9.0]), np.array([4, 1, 1, 1, 9]))
    assert ranked.tolist() == [2, 3, 0, 4]
    with pytest.raises(ConfigError, match=r"shape \(2,\) does not fit 3 objects"):
        rank_by_worth(np.ones(2), np.ones(3, np.int64))


@pytest.mark.parametrize(
    "policies",
    [
        [],
        [hybrid(0.5), hybrid(0.5)],
        [Policy("odd", 0.5, "psychic")],
        [Policy("odd", 1.5, None)],
        [Policy("odd", 0.5, None)],
        [Policy("odd", 1.0, "lru")],
    ],
)
def test_policies_that_cannot_be_are_refused(policies):
    with pytest.raises(ConfigError, match="give distinct ones"):
        Shadow(trace_of([0, 1], 1), 1, policies)


def test_no_policy_hits_more_often_than_min_but_for_what_it_fetches_ahead():
    rng = np.random.default_rng(5)
    trace = trace_of(rng.zipf(1.3, 6000).clip(max=300) - 1, 6)
    best = int(plan_residency(trace.objects, trace.nbytes, 30).hit.sum())
    counts = trace.history().counts
    shadow = Shadow(trace, 30)
    windows = [shadow.run(w, counts[w - 1] if w else None) for w in range(6)]
    for policy in POLICIES:
        total = sum((window[policy.name] for window in windows), NOTHING)
        assert total.hits - total.ahead <= best, policy.name
        assert total.requests == 6000
        assert total.loads == 6000 - total.hits + total.ahead
    assert {policy.name for policy in POLICIES if policy.reactive} == set(REACTIVE)
