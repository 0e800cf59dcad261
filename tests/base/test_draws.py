"""Bounded integers, shuffles and samples: the same for ever, unbiased, and the same however they are drawn."""

import hashlib
import json
import math
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshard.draws import MAX_BOUND, choose, integers, shuffle
from foreshard.errors import ConfigError
from foreshard.seeding import PrngState, derive_seed, raw_words, row_keys

GOLDEN = json.loads(Path(__file__).with_name("golden_seeding.json").read_text())
SEED = derive_seed(purpose="test draws")

# Bounds just above 2**62 and 2**63 / 3 reject up to a quarter of all words: what happens then must be tested too.
REJECTING = 2**62 + 2**60
seeds = st.binary(min_size=16, max_size=16)
states = st.builds(PrngState, seeds, st.integers(0, 2**62))
bounds = st.one_of(st.integers(1, 100), st.integers(1, MAX_BOUND), st.just(REJECTING), st.just(MAX_BOUND))


def _state(case):
    return PrngState(bytes.fromhex(case["seed"]), case["position"])


def _sha256(values):
    return hashlib.sha256(values.astype("<i8").tobytes()).hexdigest()


class OneByOne:
    """The definition, with Python's integers: one word at a time, a rejected one passed over."""

    def __init__(self, state):
        self.state = state

    def below(self, bound):
        while True:
            words, self.state = raw_words(self.state, 1)
            product = int(words[0]) * bound
            if product % 2**64 >= 2**64 % bound:
                return product >> 64

    def shuffle(self, n):
        order = list(range(n))
        for i in range(n - 1):
            j = i + self.below(n - i)
            order[i], order[j] = order[j], order[i]
        return order


# -- golden vectors ------------------------------------------------------------------------------------
def test_raw_words_never_change():
    golden = GOLDEN["raw_words"]
    words, after = raw_words(_state(golden), golden["n"])
    assert [f"{word:016x}" for word in words.tolist()] == golden["words"]
    assert after.to_json() == golden["state"]


@pytest.mark.parametrize("golden", GOLDEN["integers"], ids=lambda golden: golden["bound"])
def test_integers_never_change(golden):
    values, after = integers(_state(golden), int(golden["bound"]), golden["n"])
    assert values.tolist() == golden["values"]
    assert after.to_json() == golden["state"]
    assert _sha256(integers(_state(golden), int(golden["bound"]), golden["n_big"])[0]) == golden["sha256_big"]


def test_shuffles_never_change():
    golden = GOLDEN["shuffle"]
    order, after = shuffle(_state(golden), golden["n"])
    assert order.tolist() == golden["order"]
    assert after.to_json() == golden["state"]
    assert _sha256(shuffle(_state(golden), golden["n_big"])[0]) == golden["sha256_big"]


@pytest.mark.parametrize("golden", GOLDEN["choose"], ids=lambda golden: f"{golden['k']} of {golden['n']}")
def test_samples_never_change(golden):
    chosen, after = choose(_state(golden), int(golden["n"]), golden["k"])
    assert chosen.tolist() == golden["chosen"]
    assert after.to_json() == golden["state"]


def test_the_golden_integers_hold_streams_with_rejected_words():
    assert any(int(case["state"]["position"], 16) > case["position"] + case["n"] for case in GOLDEN["integers"])


# -- the definition ------------------------------------------------------------------------------------
@given(seeds, st.integers(0, 2**40), st.integers(0, 60))
def test_raw_words_are_the_row_keys_of_their_positions(seed, position, n):
    words, after = raw_words(PrngState(seed, position), n)
    assert words.dtype == np.uint64
    assert words.tolist() == row_keys(seed, np.arange(position, position + n)).tolist()
    assert after == PrngState(seed, position + n)


@given(states, bounds, st.integers(0, 40))
def test_integers_are_those_of_the_words_that_are_not_rejected(state, bound, n):
    values, after = integers(state, bound, n)
    slow = OneByOne(state)
    assert values.dtype == np.int64
    assert values.tolist() == [slow.below(bound) for _ in range(n)]
    assert after == slow.state


@given(states, st.integers(0, 80))
def test_a_shuffle_is_fisher_yates_on_those_integers(state, n):
    order, after = shuffle(state, n)
    slow = OneByOne(state)
    assert order.dtype == np.int64
    assert order.tolist() == slow.shuffle(n)
    assert after == slow.state
    assert sorted(order.tolist()) == list(range(n))


@given(states, st.integers(0, 60), st.data())
def test_a_sample_is_the_beginning_of_the_shuffle(state, n, data):
    k = data.draw(st.integers(0, n))
    chosen, after = choose(state, n, k)
    order, whole = shuffle(state, n)
    assert chosen.tolist() == order[:k].tolist()
    assert after.position - state.position == min(k, max(n - 1, 0))
    if k == n:
        assert after == whole


@given(states, st.one_of(st.just(REJECTING), st.integers(10**6, MAX_BOUND)), st.integers(0, 40))
def test_a_sample_of_a_huge_range_is_of_different_positions_and_passes_over_rejected_words(state, n, k):
    chosen, after = choose(state, n, k)
    slow = OneByOne(state)
    steps = [slow.below(n - i) for i in range(k)]
    assert after == slow.state
    assert len(set(chosen.tolist())) == k
    assert ((chosen >= 0) & (chosen < n)).all()
    assert chosen[:1].tolist() == steps[:1]


@given(states, bounds, st.integers(0, 30), st.integers(0, 30))
def test_drawing_on_from_a_stored_state_equals_drawing_at_once(state, bound, first, second):
    head, between = integers(state, bound, first)
    tail, after = integers(PrngState.from_json(json.loads(json.dumps(between.to_json()))), bound, second)
    whole, at_once = integers(state, bound, first + second)
    assert np.concatenate([head, tail]).tolist() == whole.tolist()
    assert after == at_once


def test_rejected_words_do_occur_and_are_passed_over_in_long_streams():
    values, after = integers(PrngState(SEED), REJECTING, 100_000)
    assert after.position > 100_000
    assert len(np.unique(values)) == 100_000
    head, state = integers(PrngState(SEED), REJECTING, 33_333)
    tail, last = integers(state, REJECTING, 66_667)
    assert np.array_equal(values, np.concatenate([head, tail]))
    assert last == after


# -- uniformity ----------------------------------------------------------------------------------------
def _tail(square, freedom):
    """Return P(chi-square >= square), by Wilson and Hilferty's approximation (good to a few per cent here)."""
    z = ((square / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    return math.erfc(z / math.sqrt(2)) / 2


def _p_value(counts):
    expected = counts.sum() / counts.size
    return _tail(float(((counts - expected) ** 2 / expected).sum()), counts.size - 1)


@pytest.mark.parametrize("bound", [2, 3, 10, 255, 1000])
def test_integers_are_uniform(bound):
    values, _ = integers(PrngState(SEED), bound, 300_000)
    assert 0.001 < _p_value(np.bincount(values, minlength=bound)) < 0.999


@pytest.mark.parametrize("bound", [REJECTING, 3 * 2**61, MAX_BOUND])
def test_integers_below_huge_bounds_are_uniform(bound):
    values, _ = integers(PrngState(SEED), bound, 300_000)
    thirds = np.array([int(value) * 300 // bound for value in values.tolist()])
    assert 0.001 < _p_value(np.bincount(thirds, minlength=300)) < 0.999


def test_every_order_of_a_shuffle_is_as_likely():
    number = {order: i for i, order in enumerate(permutations(range(4)))}
    counts = np.zeros(24, np.int64)
    state = PrngState(SEED)
    for _ in range(6000):
        order, state = shuffle(state, 4)
        counts[number[tuple(order.tolist())]] += 1
    assert 0.001 < _p_value(counts) < 0.999


def test_every_sample_is_as_likely():
    counts = np.zeros((7, 7), np.int64)
    state = PrngState(SEED)
    for _ in range(6000):
        (first, second), state = choose(state, 7, 2)
        counts[first, second] += 1
    assert not counts.diagonal().any()
    assert 0.001 < _p_value(counts[~np.eye(7, dtype=bool)]) < 0.999


# -- what is refused -----------------------------------------------------------------------------------
@pytest.mark.parametrize("bound", [0, -3, MAX_BOUND + 1])
def test_a_bound_out_of_range_is_refused(bound):
    with pytest.raises(ConfigError, match=rf"integers below {bound} .* 1\.\.2\*\*63"):
        integers(PrngState(SEED), bound, 1)


def test_negative_numbers_of_things_and_samples_larger_than_their_range_are_refused():
    for draw in (lambda n: integers(PrngState(SEED), 5, n), lambda n: raw_words(PrngState(SEED), n)):
        with pytest.raises(ConfigError, match=r"-1 random (integers|words) were asked for"):
            draw(-1)
    with pytest.raises(ConfigError, match="a shuffle of -1 things"):
        shuffle(PrngState(SEED), -1)
    for n, k in ((3, 4), (3, -1), (-1, 0), (MAX_BOUND + 1, 0)):
        with pytest.raises(ConfigError, match=f"{k} different positions of {n}"):
            choose(PrngState(SEED), n, k)


def test_a_stream_that_ends_says_so():
    end = PrngState(SEED, 2**63 - 3)
    words, after = raw_words(end, 2)
    assert len(words) == 2
    assert PrngState.from_json(json.loads(json.dumps(after.to_json()))) == after
    with pytest.raises(ConfigError, match=r"position 9223372036854775808 is not in .* take another seed"):
        integers(end, 1, 3)
