"""The prefetch queue: which chunk to fetch next.

What the known order needs comes first, by deadline (the touch that will use it); what the forecast suggests follows,
by the prefetch manifest's order. Not thread-safe: its owner holds a lock.
"""

import heapq
from collections.abc import Iterable
from typing import Final, NamedTuple

_FEW: Final = 64  # requests that are pushed one by one, not all together


class Request(NamedTuple):
    """A chunk to fetch.

    Attributes:
        forecast: False if a known touch needs it, True if only the forecast suggests it; known needs go first.
        rank: the touch that needs it, or its place in the prefetch manifest.
        chunk: what to fetch.
    """

    forecast: bool
    rank: int
    chunk: int


class PrefetchQueue:
    """A priority queue of requests; a withdrawn request is skipped."""

    def __init__(self) -> None:
        self._heap: list[Request] = []
        self._live: set[Request] = set()
        self._of: dict[int, Request] = {}

    def __len__(self) -> int:
        return len(self._live)

    def push(self, requests: Iterable[Request]) -> None:
        """Add requests."""
        live, of = self._live, self._of
        fresh = [request for request in requests if request not in live]
        live.update(fresh)
        if len(fresh) > _FEW:
            self._heap += fresh
            heapq.heapify(self._heap)
        else:
            for request in fresh:
                heapq.heappush(self._heap, request)
        for request in fresh:
            first = of.get(request.chunk)
            if first is None or request < first:
                of[request.chunk] = request

    def peek(self) -> Request | None:
        """Return the most urgent request, or None."""
        while self._heap and self._heap[0] not in self._live:
            heapq.heappop(self._heap)
        return self._heap[0] if self._heap else None

    def withdraw(self, request: Request) -> bool:
        """Remove a request; return whether it was still waiting."""
        if request not in self._live:
            return False
        self._live.remove(request)
        if self._of.get(request.chunk) == request:
            del self._of[request.chunk]
        return True

    def find(self, chunk: int) -> Request | None:
        """Return a request for a chunk: its most urgent one, unless that was withdrawn before the others."""
        return self._of.get(chunk)

    def clear(self) -> None:
        """Remove every request."""
        self._heap.clear()
        self._live.clear()
        self._of.clear()
