"""The do-no-harm gate: what it chooses, and by what."""

import numpy as np
import pytest
from gate_world import RIVALS, by_ewma, read, recent, trace_of, weighted

from foreshard.access.trace import Trace
from foreshard.errors import ConfigError, LogError
from foreshard.forecast.gate import EVIDENCE_SCHEMA, choose_policy, replay_policy, until
from foreshard.forecast.judging import DEFAULT_RULES, Rules, capacity_of, judge, scored_from
from foreshard.simulate.belady import plan_residency
from foreshard.simulate.shadow import POLICIES, Policy, Tally


def tally(hits, loads=None, requests=1000):
    loads = requests - hits if loads is None else loads
    return Tally(requests, hits, loads, 0, requests, hits, loads)


@pytest.mark.parametrize(("cache", "whole"), [(0.1, 0.08), (0.25, 0.2), (0.5, 0.4), (0.75, 0.6)])
def test_uniform_epochs_of_a_real_loader_are_kept_and_hit_as_often_as_min(cache, whole):
    trace = read("gate_dlio.parquet", 5)
    choice = choose_policy(trace, by_ewma(trace), cache)
    assert (choice.name, choice.pin_fraction, choice.regime.kind) == ("keep", 1.0, "uniform")
    assert "use the known order" in choice.reason
    rates = {row["policy"]: row["hit_rate"] for row in choice.summary()}
    assert rates["lru"] == 0
    assert rates["keep"] == pytest.approx(cache)
    replay = replay_policy(trace, by_ewma(trace), cache, first=1)
    best = plan_residency(trace.objects, trace.nbytes, capacity_of(trace, cache)).hit
    assert set(replay.choices) == {"keep"}
    assert replay.total.hits == int(best.sum()) == round(whole * 800)


def test_a_log_that_is_cut_in_mid_epoch_is_kept_too():
    trace = read("gate_dlio.parquet", 5)
    cut = Trace(trace.objects[:700], trace.names, trace.nbytes, np.append(trace.starts[:5], 700), 1)
    assert choose_policy(cut, by_ewma(cut), 0.5).name == "keep"


def test_rates_that_stay_are_pinned():
    trace, rates = weighted()
    choice = choose_policy(trace, lambda _: rates, 0.05)
    assert (choice.name, choice.pin_fraction) == ("pin", 1.0)
    assert choice.regime.kind == "popularity"
    rows = choice.summary()
    assert rows[0]["policy"] == "pin"
    assert rows[0]["chosen"]
    assert sum(bool(row["chosen"]) for row in rows) == 1
    assert "a gain of" in choice.reason


def test_a_forecast_that_has_not_done_better_pins_nothing():
    trace = recent()
    choice = choose_policy(trace, by_ewma(trace), 0.01)
    assert choice.name in RIVALS
    assert choice.pin_fraction == 0
    assert choice.regime.kind == "drift"
    trace, rates = weighted()
    wrong = choose_policy(trace, lambda _: 1 / rates, 0.05)
    assert wrong.pin_fraction == 0


def test_a_cache_is_shared_where_half_of_the_requests_recur_and_half_are_new():
    (stay, rates), new = weighted(), recent(windows=8)
    trace = trace_of(np.ravel(np.column_stack([stay.objects, new.objects + 400])), 8)
    expected = np.zeros(len(trace.names))
    expected[:400] = rates
    choice = choose_policy(trace, lambda _: expected, 0.03)
    assert choice.name == f"hybrid-{choice.pin_fraction:g}"
    assert 0 < choice.pin_fraction < 1


def test_a_policy_that_fetches_too_much_is_not_taken():
    """Every window wants other objects, and the forecast knows which, but wants as many others fetched besides."""
    rng = np.random.default_rng(1)
    windows = [np.concatenate([rng.permutation(50) + 50 * w for _ in range(2)]) for w in range(8)]
    trace = trace_of(np.concatenate(windows), 8)
    counts = trace.history().counts
    wide = counts + 0.5 * np.roll(counts, 3, axis=0)  # what was wanted three windows ago
    compared = [Policy("lru", 0, "lru"), Policy("pin", 1, None)]
    for budget, name in ((0.6, "pin"), (0.0, "lru")):
        rules = Rules(budget=budget, policies=compared)
        assert choose_policy(trace, lambda w: wide[w], 0.25, rules=rules).name == name
        assert choose_policy(trace, lambda w: counts[w], 0.25, rules=rules).name == "pin"  # nothing for nothing
    tallies = [{"lru": tally(500), "pin": tally(600, loads=601)}]
    rules = Rules(budget=0.1, policies=compared)
    assert judge(tallies, None, rules, pytest.fail)[0] == "lru"
    assert "budget" in judge(tallies, None, rules, pytest.fail)[1]
    assert judge([{"lru": tally(500), "pin": tally(600, loads=600)}], None, rules, pytest.fail)[0] == "pin"
    assert judge(tallies, "pin", rules, pytest.fail)[0] == "lru"  # being in use does not excuse it


def test_a_policy_in_use_stays_unless_another_is_clearly_better():
    rules = Rules(margin=0.01, policies=[Policy("lru", 0, "lru"), Policy("pin", 1, None)])

    def chosen(lru, pin, current):
        windows = [{"lru": tally(a), "pin": tally(b)} for a, b in zip(lru, pin, strict=True)]
        return judge(windows, current, rules, pytest.fail)[0]

    assert chosen([500, 500, 500], [520, 515, 490], None) == "pin"
    assert chosen([500, 500, 500], [520, 515, 490], "lru") == "lru"
    assert chosen([500, 500, 500], [520, 515, 500], "lru") == "pin"  # by more than the margin
    assert chosen([500, 500, 500], [502, 501, 501], "lru") == "pin"  # by little, but in every window
    assert chosen([500, 500, 500], [502, 501, 500], "lru") == "lru"
    assert chosen([502, 501, 500], [500, 500, 500], "pin") == "pin"


def test_never_evicting_needs_a_uniform_regime_and_the_most_hits():
    policies = [Policy("lru", 0, "lru"), Policy("keep", 0, "keep")]
    uniform = choose_policy(read("gate_dlio.parquet", 5), by_ewma(read("gate_dlio.parquet", 5)), 0.5).regime
    rules = Rules(policies=policies)
    assert judge([{"lru": tally(500), "keep": tally(500)}], "lru", rules, lambda: uniform)[0] == "keep"
    trace, rates = weighted()
    popular = choose_policy(trace, lambda _: rates, 0.05).regime
    assert judge([{"lru": tally(500), "keep": tally(500)}], "lru", rules, lambda: popular)[0] == "lru"
    assert judge([{"lru": tally(300), "keep": tally(600)}], None, rules, lambda: popular)[0] == "lru"
    assert judge([{"lru": tally(300), "keep": tally(600)}], "keep", rules, lambda: popular)[0] == "lru"
    # Chunks that are read in bursts within an epoch: uniform counts, yet recency helps.
    assert judge([{"lru": tally(500), "keep": tally(400)}], None, rules, lambda: uniform)[0] == "lru"
    only = Rules(policies=[Policy("keep", 0, "keep"), Policy("pin", 1, None)])
    assert judge([{"keep": tally(600), "pin": tally(500)}], None, only, lambda: popular)[0] == "keep"


@pytest.mark.parametrize("requests", [300, 3_000, 300_000])
def test_chance_alone_does_not_make_another_policy_better_in_a_uniform_log(requests):
    trace = read("gate_dlio.parquet", 5)
    uniform = choose_policy(trace, by_ewma(trace), 0.5).regime
    rules = Rules(policies=[Policy("lru", 0, "lru"), Policy("keep", 0, "keep"), Policy("pin", 1, None)])
    error = (2 * 0.1 * 0.9 / requests) ** 0.5

    def chosen(ahead):
        hits = {"lru": 0.1, "keep": 0.1, "pin": 0.1 + max(ahead * error, 0.002 * ahead)}
        window = {name: tally(round(share * requests), requests=requests) for name, share in hits.items()}
        return judge([window], None, rules, lambda: uniform)[0]

    assert [chosen(ahead) for ahead in (0, 0.9, 6)] == ["keep", "keep", "pin"]


@pytest.mark.parametrize(("objects", "requests"), [(40, 3_000), (200, 12_000)])
def test_nothing_is_pinned_where_requests_are_drawn_evenly(objects, requests):
    chosen = []
    for seed in range(12):
        trace = trace_of(np.random.default_rng(seed).integers(0, objects, requests), 24, objects)
        chosen.append(choose_policy(trace, by_ewma(trace), 0.1).name)
    assert set(chosen) == {"keep"}


def test_evidence_tells_every_policy_in_every_scored_window():
    trace, rates = weighted(windows=6)
    choice = choose_policy(trace, lambda _: rates, 0.05, rules=Rules(scored=2))
    assert choice.evidence.schema == EVIDENCE_SCHEMA
    rows = choice.evidence.to_pylist()
    assert {(row["policy"], row["window"]) for row in rows} == {(p.name, w) for p in POLICIES for w in (4, 5)}
    assert all(row["requests"] == 2000 and row["loads"] == 2000 - row["hits"] + row["ahead"] for row in rows)


def test_the_forecast_of_a_window_is_asked_for_once_and_never_of_the_first():
    trace, rates = weighted(windows=12)
    asked = []
    choose_policy(trace, lambda w: asked.append(w) or rates, 0.05)
    assert asked == [8, 9, 10, 11]
    asked.clear()
    replay_policy(trace, lambda w: asked.append(w) or rates, 0.05, first=6)
    assert asked == list(range(1, 12))


def test_one_window_is_enough_to_choose_among_those_without_a_forecast():
    trace = trace_of([0, 1] * 20 + [2, 3] * 20, 1)
    choice = choose_policy(trace, lambda _: pytest.fail("nothing was known"), 0.5)
    assert choice.pin_fraction in (0, 1)
    assert choice.name in ("lru", "s3-fifo", "sieve", "keep")
    assert choice.evidence.num_rows == len(POLICIES)


def test_first_window_is_not_scored_if_there_is_another():
    assert [scored_from(windows, DEFAULT_RULES) for windows in (1, 2, 3, 4, 9)] == [0, 1, 1, 1, 6]


def test_what_cannot_be_is_refused():
    trace, rates = weighted(windows=3)
    for cache in (0.0, 1.5):
        with pytest.raises(ConfigError, match=f"cache {cache} must be in"):
            choose_policy(trace, lambda _: rates, cache)
    with pytest.raises(ConfigError, match="'psychic' is not one of lru, "):
        choose_policy(trace, lambda _: rates, 0.1, current="psychic")
    with pytest.raises(ConfigError, match=r"shape \(3,\) does not fit 400 objects"):
        choose_policy(trace, lambda _: rates[:3], 0.1)
    with pytest.raises(LogError, match="holds no request"):
        choose_policy(until(trace, 0), lambda _: rates, 0.1)
    for first in (0, 3):
        with pytest.raises(ConfigError, match=f"window {first} cannot be the first that counts"):
            replay_policy(trace, lambda _: rates, 0.1, first=first)
    for options in ({"budget": -0.1}, {"margin": -1.0}, {"scored": 0}, {"budget": float("nan")}):
        with pytest.raises(ConfigError, match="cannot be"):
            Rules(**options)
    with pytest.raises(ConfigError, match="add 'lru'"):
        Rules(policies=[Policy("pin", 1.0, None)])


def test_a_cache_holds_its_share_of_the_bytes_whatever_the_binary_fraction():
    trace = trace_of(np.arange(100), 1)
    assert [capacity_of(trace, share / 100) for share in range(1, 101)] == list(range(1, 101))
