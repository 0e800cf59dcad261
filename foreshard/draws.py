"""Bounded integers, shuffles and samples from a Philox stream, as our own functions of its raw words.

numpy promises the words of its generators, not what its `integers`, `shuffle` or `choice` make of them; these are
defined here once and for all, and pinned by golden vectors. Each takes the state to draw from and returns the state
after it, so drawing on from there equals drawing everything at once.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.errors import ConfigError
from foreshard.seeding import PrngState, raw_words

MAX_BOUND: Final = 2**63
"""The largest bound of an integer: what is drawn is int64."""

_BLOCK: Final = 1 << 16
_MASK32: Final = np.uint64(0xFFFFFFFF)
_SHIFT32: Final = np.uint64(32)


def integers(state: PrngState, bound: int, n: int) -> tuple[NDArray[np.int64], PrngState]:
    """Draw `n` integers from 0..bound-1, each exactly as likely.

    Lemire, "Fast random integer generation in an interval" (2019), on 64-bit words: the integer of a word is the upper
    half of its 128-bit product with the bound, and a word whose lower half is below 2**64 mod bound is rejected. The
    i-th integer is that of the stream's i-th word that is not rejected, and the state after it stands behind the last
    of them.

    Returns:
        Shape (n,), and the state after it.

    Raises:
        ConfigError: the bound is not in 1..2**63, `n` is negative, or the stream ends before.
    """
    if not 1 <= bound <= MAX_BOUND:
        raise ConfigError(f"integers below {bound} were asked for; the bound must be in 1..2**63")
    if n < 0:
        raise ConfigError(f"{n} random integers were asked for; the number must be at least 0")
    drawn = np.empty(n, np.int64)
    bounds = np.array([bound], np.uint64)
    have = 0
    while have < n:  # as many words as are missing: if none is rejected, none is left over
        words, state = raw_words(state, n - have)
        values, accepted = _multiply_shift(words, bounds)
        kept = values[accepted]
        drawn[have : have + len(kept)] = kept
        have += len(kept)
    return drawn, state


def shuffle(state: PrngState, n: int) -> tuple[NDArray[np.int64], PrngState]:
    """Return a uniform permutation of 0..n-1 by Fisher-Yates, and the state after it.

    Durstenfeld's form from the front: position i = 0..n-2 swaps with i plus an integer below n - i, drawn as `integers`
    draws. It needs n - 1 words unless one is rejected (of 2**64 words, fewer than n are).

    Raises:
        ConfigError: `n` is negative, or the stream ends before.
    """
    if n < 0:
        raise ConfigError(f"a shuffle of {n} things was asked for; the number must be at least 0")
    steps, state = _falling(state, n, max(n - 1, 0))
    order = list(range(n))
    for i, step in enumerate(steps.tolist()):
        j = i + step
        order[i], order[j] = order[j], order[i]
    return np.array(order, np.int64), state


def choose(state: PrngState, n: int, k: int) -> tuple[NDArray[np.int64], PrngState]:
    """Return `k` different positions of 0..n-1 in uniformly random order, and the state after them.

    They are the first k of `shuffle(state, n)`, found in memory proportional to k.

    Raises:
        ConfigError: `k` is not in 0..n, `n` exceeds 2**63, or the stream ends before.
    """
    if not 0 <= k <= n <= MAX_BOUND:
        raise ConfigError(f"{k} different positions of {n} were asked for; take 0..{n} of them, of at most 2**63")
    steps, state = _falling(state, n, min(k, max(n - 1, 0)))
    moved: dict[int, int] = {}  # what stands at a position, where that is not its own number
    chosen = np.empty(k, np.int64)
    for i, step in enumerate(steps.tolist()):
        j: int = i + step
        chosen[i] = moved.get(j, j)
        moved[j] = moved.pop(i, i)
    if len(steps) < k:  # the last of n has no choice
        chosen[-1] = moved.get(n - 1, n - 1)
    return chosen, state


def _falling(state: PrngState, n: int, count: int) -> tuple[NDArray[np.int64], PrngState]:
    """Draw integers below n, n - 1, ..., n - count + 1; a rejected word is passed over, as in `integers`."""
    drawn = np.empty(count, np.int64)
    for start in range(0, count, _BLOCK):
        have, stop = start, min(start + _BLOCK, count)
        while have < stop:
            bounds = np.uint64(n) - np.arange(have, stop, dtype=np.uint64)
            words, after = raw_words(state, len(bounds))
            values, accepted = _multiply_shift(words, bounds)
            # Behind a rejected word all words meet other bounds: keep what lies before and draw again from the next.
            good = len(values) if accepted.all() else int(accepted.argmin())
            drawn[have : have + good] = values[:good]
            have += good
            state = after if good == len(values) else PrngState(state.seed, state.position + good + 1)
    return drawn, state


def _multiply_shift(
    words: NDArray[np.uint64], bounds: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the upper half of each 128-bit product word * bound, and whether its lower half is not rejected."""
    low_word, high_word = words & _MASK32, words >> _SHIFT32
    low_bound, high_bound = bounds & _MASK32, bounds >> _SHIFT32
    middle = low_word * high_bound + (low_word * low_bound >> _SHIFT32)  # below 2**64: (2**32-1)**2 + 2**32-1
    other = high_word * low_bound + (middle & _MASK32)
    upper = high_word * high_bound + (middle >> _SHIFT32) + (other >> _SHIFT32)
    rejected_below = (~bounds + np.uint64(1)) % bounds  # (2**64 - bound) mod bound
    return upper.astype(np.int64), words * bounds >= rejected_below
