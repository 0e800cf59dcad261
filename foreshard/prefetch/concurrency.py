"""How many fetches may be in flight: found by trying while training goes on.

Additive increase and multiplicative decrease, as of congestion control in networks (Chiu & Jain, "Analysis of the
increase and decrease algorithms for congestion avoidance in computer networks", 1989), with the increase kept only if
it brought more bytes: a store that throttles shows that as latency, not as errors.
"""

import time
from collections.abc import Callable
from typing import Final

START: Final = 4
"""Fetches in flight at first."""

_LEAST: Final = 16  # fetches that are judged together, at least
_LATE: Final = 0.02  # share of the time that the training loop waited for chunks
_GAIN: Final = 1.05  # more bytes a second that justify more fetches
_HOLD: Final = 8  # judgements without another trial after one that failed
_CALM: Final = 4  # judgements without waiting that give one fetch back
_FAULTY: Final = 0.1  # share of fetches that failed


class Concurrency:
    """The number of fetches in flight. Not thread-safe: its owner holds a lock.

    It is doubled while the training loop waits for chunks and each doubling pays; after the first that does not, it
    grows by one at a time, with pauses. Fetches that fail halve it, time without waiting takes one back.

    Args:
        most: upper bound.
        clock: seconds, ever ascending.

    Attributes:
        limit: fetches that may be in flight.
        bound: how many at a time there is room for; more would only get in each other's way.
    """

    def __init__(self, most: int, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.limit = min(START, most)
        self._most, self._clock = most, clock
        self.bound = most
        self._doubling = True
        self._before = self._calm = self._hold = 0  # `before`: the limit before a trial, 0 outside one
        self._rate = 0.0
        self.begin()

    def begin(self, *, settling: bool = True) -> None:
        """Start measuring anew: at the beginning of an epoch, or when the limit has changed.

        Args:
            settling: whether the fetches in flight are those of another limit, so that a round of them does not count.
        """
        self._to_skip = self.limit if settling else 0
        self._landed = self._failed = self._bytes = 0
        self._late = 0.0
        self._since = self._clock()

    def waited(self, seconds: float) -> None:
        """Count time that the training loop waited for a chunk."""
        self._late += seconds

    def done(self, nbytes: int, *, failed: bool = False) -> int:
        """Count a fetch that ended, and return how many may be in flight from now on.

        Args:
            nbytes: what it brought.
            failed: whether it brought nothing.
        """
        if self._to_skip:
            self._to_skip -= 1
            if not self._to_skip:
                self.begin(settling=False)
            return self.limit
        self._landed += 1
        self._failed += failed
        self._bytes += nbytes
        if self._landed >= max(_LEAST, 2 * self.limit):
            self._judge()
        return self.limit

    def _judge(self) -> None:
        elapsed = max(self._clock() - self._since, 1e-9)
        rate, late = self._bytes / elapsed, self._late > _LATE * elapsed
        before, limit, most = self._before, self.limit, min(self._most, self.bound)
        self._before = 0
        if self._failed > _FAULTY * self._landed:
            self._doubling, self._hold, limit = False, _HOLD, max(limit // 2, 1)
        elif before and rate < self._rate * _GAIN:
            self._doubling, self._hold, limit = False, _HOLD, before
        elif late and self._hold:
            self._hold -= 1
        elif late and limit < most:
            self._before, limit = limit, min(2 * limit if self._doubling else limit + 1, most)
        self._calm = 0 if late else self._calm + 1
        if self._calm >= _CALM:
            self._calm, limit = 0, max(limit - 1, 1)
        limit = min(limit, max(most, 1))
        self._rate = rate
        settling, self.limit = limit != self.limit, limit
        self.begin(settling=settling)
