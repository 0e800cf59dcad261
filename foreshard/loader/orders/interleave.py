"""Interleaving of sequences at given ratios by arithmetic: which one a place is dealt to, whatever came before."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

_SHIFT: Final = np.uint64(32)
_SCALE: Final = 1 << 32  # a share is a whole number of 2**-32
_LOW: Final = np.uint64(_SCALE - 1)
_ROUND: Final = np.uint64(1 << 31)


class Interleaving:
    """Deals the places 0, 1, 2, ... to components in proportion to their ratios.

    Of two components each place goes to the one that is furthest behind its share of the places so far (the largest
    deficit): after p places the first has the share times p, rounded. Several are split in two groups, whose places are
    split in turn, so that a place is found in log2(k) steps. At any place every component is within (1 + log2(k)) / 2
    places of its share.

    Args:
        ratios: shape (k,), above 0; only their proportion counts. A group's share of its pair is rounded to a
            multiple of 2**-32, at least one.
    """

    def __init__(self, ratios: Sequence[float]) -> None:
        self.components = len(ratios)
        exact = [Fraction(ratio) for ratio in ratios]
        self._share: dict[tuple[int, int], np.uint64] = {}
        self._split(exact, 0, len(exact))

    def _split(self, ratios: Sequence[Fraction], low: int, high: int) -> None:
        if high - low < 2:  # noqa: PLR2004 - one component has no one to share with
            return
        middle = (low + high) // 2
        share = sum(ratios[low:middle]) / sum(ratios[low:high])
        self._share[low, high] = np.uint64(min(max(round(share * _SCALE), 1), _SCALE - 1))
        self._split(ratios, low, middle)
        self._split(ratios, middle, high)

    def counts(self, places: int) -> list[int]:
        """Return how many of the first `places` places each component has; they add up to `places`."""
        counts = [0] * self.components

        def fill(low: int, high: int, total: int) -> None:
            if high - low == 1:
                counts[low] = total
                return
            middle, left = (low + high) // 2, (int(self._share[low, high]) * total + int(_ROUND)) >> 32
            fill(low, middle, left)
            fill(middle, high, total - left)

        fill(0, self.components, places)
        return counts

    def components_at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the component of each place; int64, shape (m,).

        Args:
            places: shape (m,), in 0..2**62.
        """
        found = np.zeros(len(places), np.int64)
        pending = [(0, self.components, np.arange(len(places)), places.astype(np.uint64))]
        while pending:
            low, high, which, own = pending.pop()
            if high - low == 1:
                found[which] = low
                continue
            share, middle = self._share[low, high], (low + high) // 2
            before = _rounded(own, share)
            left = _rounded(own + np.uint64(1), share) > before
            right = ~left
            pending.append((low, middle, which[left], before[left]))
            pending.append((middle, high, which[right], (own - before)[right]))
        return found

    def exhausts(self, component: int, count: int) -> int:
        """Return the number of places after which a component has had `count` of them, all at least 1."""
        low, high = count - 1, count
        while self.counts(high)[component] < count:
            low, high = high, high * 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.counts(middle)[component] >= count else (middle, high)
        return high


def _rounded(places: NDArray[np.uint64], share: np.uint64) -> NDArray[np.uint64]:
    """Return places * share / 2**32, rounded half up, exact for places below 2**63."""
    return (places >> _SHIFT) * share + (((places & _LOW) * share + _ROUND) >> _SHIFT)
