"""What choosing a policy anew at every window would have brought, and that no choice knows the future."""

import numpy as np
import pytest
from gate_world import RIVALS, by_ewma, read, recent, trace_of, weighted
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshard.access.trace import Trace
from foreshard.forecast.gate import choose_policy, replay_policy, until
from foreshard.forecast.judging import Rules, capacity_of
from foreshard.simulate.belady import plan_residency
from foreshard.simulate.shadow import Policy, Shadow


def test_a_choice_knows_nothing_of_the_windows_it_is_made_for():
    trace, rates = weighted(windows=10)
    changed = trace.objects.copy()
    changed[trace.starts[7] :] = np.random.default_rng(9).integers(0, 400, len(changed) - trace.starts[7])
    other = Trace(changed, trace.names, trace.nbytes, trace.starts, 1)
    one, two = (replay_policy(t, lambda _: rates, 0.05, first=4) for t in (trace, other))
    assert one.choices[:4] == two.choices[:4]
    assert one.chosen[:3] == two.chosen[:3]
    assert one.choices[:1] == (choose_policy(until(trace, 4), lambda _: rates, 0.05).name,)


def test_the_regime_is_told_by_the_windows_before_a_choice():
    rng = np.random.default_rng(3)
    epochs = [rng.permutation(100) for _ in range(6)]
    trace = trace_of(np.concatenate([*epochs, *(rng.integers(0, 5, 100) for _ in range(4))]), 10)
    # Pinning any set does as well; listed first, it would win were the regime not known to be uniform.
    rules = Rules(policies=[Policy("lru", 0, "lru"), Policy("pin", 1, None), Policy("keep", 0, "keep")])
    replay = replay_policy(trace, lambda _: np.arange(100.0, 0, -1), 0.3, first=5, rules=rules)
    assert replay.choices[:2] == ("keep", "keep")
    assert replay.tallies["pin"][0].hits == replay.tallies["keep"][0].hits


@given(seed=st.integers(0, 10**6), cache=st.sampled_from([0.02, 0.05, 0.1, 0.3]), wrong=st.booleans())
@settings(max_examples=15, deadline=None)
def test_totals_are_those_of_the_policies_in_use(seed, cache, wrong):
    trace, rates = weighted(seed, objects=200, windows=7, length=500)
    replay = replay_policy(trace, lambda w: rates if not (wrong and w % 3) else 1 / rates, cache, first=3)
    assert len(replay.choices) == len(replay.chosen) == 4
    for name, mine, at in zip(replay.choices, replay.chosen, range(4), strict=True):
        assert (mine.hits, mine.requests) == (replay.tallies[name][at].hits, 500)
        assert mine.loads >= replay.tallies[name][at].loads
    assert replay.switches == len([1 for a, b in zip(replay.choices, replay.choices[1:], strict=False) if a != b])
    best = max(replay.total_of(name).hits for name in replay.reactive)
    assert replay.gain == pytest.approx((replay.total.hits - best) / 2000)


def test_a_change_of_policy_pays_for_what_the_new_one_holds():
    trace, rates = weighted(windows=8)
    replay = replay_policy(trace, lambda w: rates if w > 3 else 1 / rates, 0.05, first=3)
    assert replay.choices[0] in RIVALS
    assert replay.choices[-1] == "pin"
    at = replay.choices.index("pin")
    moved = replay.chosen[at].ahead - replay.tallies["pin"][at].ahead
    shadow = Shadow(trace, capacity_of(trace, 0.05))
    for window in range(3 + at):
        shadow.run(window, (rates if window > 3 else 1 / rates) if window else None)
    assert moved == (shadow.holds("pin") & ~shadow.holds(replay.choices[at - 1])).sum() > 0
    assert replay.chosen[at].load_bytes - replay.tallies["pin"][at].load_bytes == moved


@pytest.mark.parametrize("cache", [0.05, 0.1, 0.25])
def test_on_a_real_trace_the_choice_is_never_clearly_worse_than_the_best_reactive_cache(cache):
    trace = read("gate_web12.parquet", 12)
    replay = replay_policy(trace, by_ewma(trace), cache, first=4)
    assert replay.gain >= -0.003
    best = plan_residency(trace.objects, trace.nbytes, capacity_of(trace, cache)).hit[trace.starts[4] :].mean()
    assert replay.total.hit_rate < best
    assert replay.total.loads <= replay.total_of(replay.best_reactive).loads + 0.1 * replay.total.requests


@pytest.mark.parametrize("seed", range(4))
def test_harm_is_bounded_where_recency_is_all_there_is(seed):
    trace = recent(seed)
    for cache in (0.005, 0.02):
        assert replay_policy(trace, by_ewma(trace), cache, first=4).gain >= -0.003
