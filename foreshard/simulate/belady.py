"""Belady's MIN over a chunk trace that is known ahead, in bytes, with bypass.

Belady, "A study of replacement algorithms for virtual-storage computers" (IBM Systems Journal, 1966): evict what is
used farthest in the future. A chunk whose own next use is farther than that of everything resident is not kept at all.
For chunks of equal size this is optimal; for unequal sizes the optimum is NP-hard and this greedy is the usual bound.
"""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NEVER = np.iinfo(np.int64).max
"""Next use of a chunk that is not used again."""


@dataclass(frozen=True)
class Residency:
    """What to keep when: the schedule that a prefetcher carries out.

    Attributes:
        hit: bool (m,), whether the chunk of touch i is resident before the touch.
        keep: bool (m,), whether it stays resident from touch i to its next use (a last touch: beyond the trace).
        kept_at_start: initially resident chunks that stay until their first use, or beyond the trace.
    """

    hit: NDArray[np.bool_]
    keep: NDArray[np.bool_]
    kept_at_start: frozenset[int]


def next_uses(chunks: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return for every touch the index of the next touch of the same chunk, `NEVER` for the last one.

    Args:
        chunks: shape (m,), the trace.
    """
    order = np.argsort(chunks, kind="stable")
    following = np.full(len(chunks), NEVER, np.int64)
    same = chunks[order[1:]] == chunks[order[:-1]]
    following[order[:-1][same]] = order[1:][same]
    return following


class _Cache:
    """Resident chunks by next use; evicting pops the farthest."""

    def __init__(self, capacity: int, nbytes: NDArray[np.int64]) -> None:
        self.free = capacity
        self._nbytes = nbytes
        self._next: dict[int, tuple[int, int]] = {}  # chunk -> (next use, touch that decided to keep it)
        self._heap: list[tuple[int, int]] = []  # (-next use, chunk); entries whose next use is stale are skipped

    def pop(self, chunk: int) -> bool:
        """Take a chunk out; return whether it was resident."""
        if self._next.pop(chunk, None) is None:
            return False
        self.free += int(self._nbytes[chunk])
        return True

    def offer(self, chunk: int, following: int, decided: int) -> tuple[bool, list[tuple[int, int]]]:
        """Try to keep a chunk until `following`.

        Returns:
            Whether it is kept, and the (chunk, deciding touch) pairs evicted for it.
        """
        size = int(self._nbytes[chunk])
        victims: list[tuple[int, int]] = []
        free = self.free
        while free < size and self._heap and -self._heap[0][0] > following:
            use, victim = heapq.heappop(self._heap)
            if self._next.get(victim, (-1, -1))[0] == -use:
                victims.append((use, victim))
                free += int(self._nbytes[victim])
        if free < size:
            for entry in victims:
                heapq.heappush(self._heap, entry)
            return False, []
        evicted = [(victim, self._next.pop(victim)[1]) for _, victim in victims]
        self.free = free - size
        self._next[chunk] = (following, decided)
        heapq.heappush(self._heap, (-following, chunk))
        return True, evicted


def plan_residency(
    chunks: NDArray[np.int32],
    nbytes: NDArray[np.int64],
    capacity: int,
    *,
    resident: frozenset[int] = frozenset(),
    later: Mapping[int, int] | None = None,
) -> Residency:
    """Decide for every touch of a known trace whether its chunk stays in memory until its next use.

    Args:
        chunks: shape (m,), the trace.
        nbytes: size of every chunk, shape (C,).
        capacity: bytes that kept chunks may fill.
        resident: chunks in memory at the start.
        later: expected first use beyond the trace (index >= m) by chunk; chunks left out are not kept beyond it.
    """
    m = len(chunks)
    following = next_uses(chunks)
    beyond = later or {}
    hit, keep = np.zeros(m, np.bool_), np.zeros(m, np.bool_)
    cache = _Cache(capacity, nbytes)
    first = dict(zip(reversed(chunks.tolist()), range(m - 1, -1, -1), strict=True))
    kept_at_start: set[int] = set()

    def offer(chunk: int, use: int, decided: int) -> bool:
        kept, evicted = cache.offer(chunk, use, decided)
        for victim, touch in evicted:
            if touch < 0:
                kept_at_start.discard(victim)
            else:
                keep[touch] = False
        return kept

    for chunk in sorted(resident, key=lambda c: (first.get(c, beyond.get(c, NEVER)), c)):
        use = first.get(chunk, beyond.get(chunk, NEVER))
        if use != NEVER and offer(chunk, use, -1):
            kept_at_start.add(chunk)
    for touch, chunk in enumerate(chunks.tolist()):
        hit[touch] = cache.pop(chunk)
        use = int(following[touch])
        if use == NEVER:
            use = beyond.get(chunk, NEVER)
        if use != NEVER:
            keep[touch] = offer(chunk, use, touch)
    return Residency(hit, keep, frozenset(kept_at_start))
