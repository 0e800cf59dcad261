"""Weighted draws as functions of uniform numbers: with replacement by inversion, without by exponential keys."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

_BLOCK: Final = 1 << 16
_HALF: Final = 0.5**0.5
_LN2: Final = 0.6931471805599453
_TERMS: Final = 12  # of the series of log: the next is below 2**-64 of the first


class InverseSampler:
    """Draws positions in proportion to weights, as the inverse of their cumulative sum at uniform numbers.

    Finding the place takes O(1) per draw: a guide table leads to the few places where it can lie (Chen & Asau, "On
    generating random variates from an empirical distribution", AIIE Transactions 1974). What is drawn is bit for bit
    what a binary search over all places finds, which an alias table's draws would not be, and the table is built by
    whole-array operations. A small change of weights changes few draws.

    Args:
        weights: float64 (n,), finite, at least 0, not all 0.
    """

    def __init__(self, weights: NDArray[np.float64]) -> None:
        self._cumulative = np.cumsum(weights)
        self._total = self._cumulative[-1]
        # Rounding can place a draw at the very end: it belongs to the last sample with any weight.
        self._last = int(np.searchsorted(self._cumulative, self._total, side="left"))
        # A power of two, so that a number's bucket is exact and no product rounds across the bucket's edges.
        self._buckets = 1 << (len(weights) - 1).bit_length()
        edges = np.arange(self._buckets + 1, dtype=np.float64) / self._buckets * self._total
        self._guide = np.searchsorted(self._cumulative, edges, side="right")

    def __call__(self, numbers: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the position that each number draws.

        Args:
            numbers: shape (m,), in [0, 1).
        """
        found = np.empty(len(numbers), np.int64)
        for start in range(0, len(numbers), _BLOCK):
            block = slice(start, start + _BLOCK)
            found[block] = self._find(numbers[block])
        return np.minimum(found, self._last)

    def _find(self, numbers: NDArray[np.float64]) -> NDArray[np.int64]:
        bucket = (numbers * self._buckets).astype(np.int64)
        low, high = self._guide[bucket], self._guide[bucket + 1]
        wanted = numbers * self._total
        open_ = np.flatnonzero(low < high)
        while len(open_):
            left, right = low[open_], high[open_]
            middle = (left + right) // 2
            beyond = self._cumulative[middle] <= wanted[open_]
            low[open_] = left = np.where(beyond, middle + 1, left)
            high[open_] = right = np.where(beyond, right, middle)
            open_ = open_[left < right]
        return low


def first_of(numbers: NDArray[np.float64], weights: NDArray[np.float64], draws: int) -> NDArray[np.int64]:
    """Draw positions one after the other without replacement, each time in proportion to the weights that are left.

    Every position waits an exponential time at the rate of its weight; the first to come are drawn, in that order
    (Efraimidis & Spirakis, "Weighted random sampling with a reservoir", 2006; the Gumbel top-k trick is its logarithm).
    A position's time depends on nothing but its own number and weight. Equal times go by position.

    Args:
        numbers: float64 (n,), uniform in [0, 1).
        weights: float64 (n,), finite, at least 0.
        draws: how many, at most the number of weights above 0.

    Returns:
        int64 (draws,).
    """
    times = np.full(len(weights), np.inf)
    for start in range(0, len(weights), _BLOCK):
        block = slice(start, start + _BLOCK)
        with np.errstate(over="ignore"):  # the time of a tiny weight may be infinite: it comes last
            np.divide(exponentials(numbers[block]), weights[block], out=times[block], where=weights[block] > 0)
    times[(weights > 0) & np.isinf(times)] = np.finfo(np.float64).max
    if draws < len(times):
        limit = np.partition(times, draws - 1)[draws - 1]
        early = np.flatnonzero(times <= limit)
    else:
        early = np.arange(len(times), dtype=np.int64)
    return early[np.argsort(times[early], kind="stable")][:draws]


def exponentials(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return -log(1 - number): exponential times of uniform numbers in [0, 1).

    The logarithm is our own series of correctly rounded operations: numpy's differs in the last bit between
    processors, which could swap two samples.

    Args:
        numbers: shape (m,).
    """
    mantissa, exponent = np.frexp(1.0 - numbers)
    small = mantissa < _HALF
    mantissa[small] *= 2
    exponent[small] -= 1
    ratio = (mantissa - 1) / (mantissa + 1)
    square = ratio * ratio
    series = np.full(len(numbers), 1 / (2 * _TERMS + 1))
    for term in range(_TERMS - 1, -1, -1):
        series = series * square + 1 / (2 * term + 1)
    return np.abs(exponent * _LN2 + 2 * ratio * series)
