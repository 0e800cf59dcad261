"""Fetches chunks into the bounded region ahead of their use, and on demand where it has not got round to them."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from threading import Condition, Thread, current_thread

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.errors import DeadlineError
from foreshard.prefetch.queue import PrefetchQueue, Request
from foreshard.prefetch.region import Entry, Region

Fetch = Callable[[int], pa.RecordBatch]
"""Reads, verifies and decodes one chunk; called by several threads at a time."""


@dataclass(frozen=True)
class Traffic:
    """Bytes and requests since the last `take_traffic`; the fields of `EpochStats` of the same names."""

    origin_bytes: int = 0
    origin_requests: int = 0
    demand_requests: int = 0
    prefetched_bytes: int = 0
    prefetched_used_bytes: int = 0
    forecast_bytes: int = 0
    forecast_used_bytes: int = 0


@dataclass(frozen=True)
class Lent:
    """A chunk lent to the assembler for one touch.

    Attributes:
        entry: the chunk.
        hit: whether it was in memory without a fetch for this touch.
        waited_us: microseconds the assembler waited for it.
        bypass: whether it occupies the on-demand slot, not the region.
    """

    entry: Entry
    hit: bool
    waited_us: int
    bypass: bool


class Prefetcher:
    """Threads that fetch by deadline, under the region's byte ledger.

    It starts no thread before `begin` or `warm`. `lend` and `give_back` are for one assembling thread; all other
    methods may be called from any thread.

    Args:
        fetch: reads one chunk.
        nbytes: size of every chunk, shape (C,).
        region: the memory.
        timeout: seconds any wait may last.
    """

    def __init__(self, fetch: Fetch, nbytes: NDArray[np.int64], region: Region, *, timeout: float) -> None:
        self.region = region
        self._fetch, self._nbytes, self._timeout = fetch, nbytes, timeout
        self._changed = Condition()
        self._queue = PrefetchQueue()
        self._in_flight: set[int] = set()
        self._unwanted: set[int] = set()
        self._promised: dict[int, int] = {}
        self._threads: list[Thread] = []
        self._concurrency = 0
        self._forecast_limit = 0
        self._failure: Exception | None = None
        self._traffic = Traffic()

    # -- what to fetch --------------------------------------------------------------------------------
    def warm(self, chunks: Iterable[int], *, share: float, concurrency: int) -> None:
        """Fetch chunks that the forecast suggests, in the given order, into at most `share` of the region."""
        with self._changed:
            self._forecast_limit = self.region.bypass + int(self.region.capacity * share)
            self._queue.push(Request(forecast=True, rank=i, chunk=c) for i, c in enumerate(chunks))
            self._run_threads(concurrency)

    def resident(self) -> frozenset[int]:
        """Return the chunks in memory or on their way; forecast requests not begun are given up."""
        with self._changed:
            self._queue.clear()
            return frozenset(self.region.entries) | frozenset(self._in_flight)

    def begin(self, needed: Iterable[tuple[int, int]], kept: frozenset[int], *, concurrency: int) -> None:
        """Start an epoch.

        Args:
            needed: (touch, chunk) pairs that the schedule wants fetched, by touch.
            kept: resident chunks that stay; the others are dropped.
            concurrency: fetches in flight at a time.
        """
        with self._changed:
            self._queue.clear()
            for chunk in [c for c in self.region.entries if c not in kept]:
                self.region.drop(chunk)
            for entry in self.region.entries.values():
                entry.needed_until = -1
            self._promised.clear()
            self._unwanted = self._in_flight - kept
            self._queue.push(Request(forecast=False, rank=touch, chunk=chunk) for touch, chunk in needed)
            self._run_threads(concurrency)

    def pause(self) -> None:
        """Give up everything that has not begun; what is in flight still lands."""
        with self._changed:
            self._queue.clear()

    def close(self) -> None:
        """Stop the threads and let the memory go."""
        with self._changed:
            self._queue.clear()
            self._concurrency = 0
            threads = list(self._threads)
            self._changed.notify_all()
        for thread in threads:
            thread.join(self._timeout)
        with self._changed:
            for chunk in list(self.region.entries):
                self.region.drop(chunk)

    def take_traffic(self) -> Traffic:
        """Return the counters and start them anew."""
        with self._changed:
            traffic, self._traffic = self._traffic, Traffic()
            return traffic

    # -- lending to the assembler ---------------------------------------------------------------------
    def lend(self, touch: int, chunk: int) -> Lent:
        """Return the chunk of a touch: from memory, once it has landed, or by a fetch on demand.

        Raises:
            DeadlineError: it did not land in time.
        """
        start = time.perf_counter()
        with self._changed:
            entry = self._await(chunk, start + self._timeout)
            if entry is not None:
                waited = int((time.perf_counter() - start) * 1e6)
                hit = entry.uses > 0 or entry.forecast
                self._count_use(entry)
                return Lent(entry, hit, waited, bypass=False)
            self._queue.withdraw(Request(forecast=False, rank=touch, chunk=chunk))
            self._in_flight.add(chunk)
        try:
            entry = self._timed_fetch(chunk)
        finally:
            with self._changed:
                self._in_flight.discard(chunk)
                self._changed.notify_all()
        with self._changed:
            self._count(origin_bytes=entry.nbytes, origin_requests=1, demand_requests=1)
        return Lent(entry, hit=False, waited_us=int((time.perf_counter() - start) * 1e6), bypass=True)

    def give_back(self, touch: int, chunk: int, lent: Lent, *, keep: bool) -> None:
        """End a touch: the chunk stays if the schedule or a promise wants it and there is room."""
        entry = lent.entry
        with self._changed:
            entry.uses += 1
            if lent.bypass:
                promised = self._promised.pop(chunk, -1)
                entry.needed_until = max(entry.needed_until, promised)
                if (keep or promised > touch) and self.region.reserve(entry.nbytes):
                    self.region.put(chunk, entry)
                elif promised > touch:
                    self._queue.push([Request(forecast=False, rank=promised, chunk=chunk)])
            elif not keep and entry.needed_until <= touch:
                self.region.drop(chunk)
            self._changed.notify_all()

    def _await(self, chunk: int, deadline: float) -> Entry | None:
        """Return a resident chunk, waiting while it is in flight; None if nobody is fetching it."""
        while True:
            entry = self.region.entries.get(chunk)
            if entry is not None:
                return entry
            if self._failure is not None:
                raise self._failure
            if chunk not in self._in_flight:
                return None
            left = deadline - time.perf_counter()
            if left <= 0:
                raise DeadlineError(
                    f"chunk {chunk} ({self._nbytes[chunk]} bytes) did not arrive within {self._timeout} s; "
                    f"{len(self._in_flight)} fetches are in flight; check the object store or raise loader.timeout"
                )
            self._changed.wait(left)

    def _count_use(self, entry: Entry) -> None:
        if entry.uses == 0:
            forecast = entry.nbytes if entry.forecast else 0
            self._count(prefetched_used_bytes=entry.nbytes, forecast_used_bytes=forecast)

    def _count(self, **more: int) -> None:
        self._traffic = replace(self._traffic, **{k: getattr(self._traffic, k) + v for k, v in more.items()})

    # -- fetching -------------------------------------------------------------------------------------
    def _run_threads(self, concurrency: int) -> None:
        self._concurrency = concurrency
        while len(self._threads) < concurrency:
            thread = Thread(target=self._work, name=f"foreshard-fetch-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._changed.notify_all()

    def _work(self) -> None:
        while (request := self._next()) is not None:
            chunk = request.chunk
            nbytes = int(self._nbytes[chunk])
            try:
                entry = self._timed_fetch(chunk)
            except Exception as error:  # noqa: BLE001 - raised again in the thread that waits for the chunk
                with self._changed:
                    self._failure = error
                    self._in_flight.discard(chunk)
                    self.region.release(nbytes)
                    self._changed.notify_all()
                continue
            with self._changed:
                self._land(request, entry)

    def _land(self, request: Request, entry: Entry) -> None:
        chunk = request.chunk
        self._in_flight.discard(chunk)
        forecast = entry.nbytes if request.forecast else 0
        self._count(
            origin_bytes=entry.nbytes, origin_requests=1, prefetched_bytes=entry.nbytes, forecast_bytes=forecast
        )
        entry.forecast = request.forecast
        entry.needed_until = max(-1 if request.forecast else request.rank, self._promised.pop(chunk, -1))
        if chunk in self._unwanted and entry.needed_until < 0:
            self.region.release(entry.nbytes)
        else:
            self.region.put(chunk, entry)
        self._unwanted.discard(chunk)
        self._changed.notify_all()

    def _timed_fetch(self, chunk: int) -> Entry:
        start = time.perf_counter()
        batch = self._fetch(chunk)
        return Entry(batch, int(self._nbytes[chunk]), int((time.perf_counter() - start) * 1e6))

    def _next(self) -> Request | None:
        """Wait for a request whose bytes fit; None tells the thread to end."""
        with self._changed:
            while True:
                if len(self._threads) > self._concurrency:
                    self._threads.remove(current_thread())
                    return None
                request = self._take()
                if request is not None:
                    return request
                self._changed.wait()

    def _take(self) -> Request | None:
        while (request := self._queue.peek()) is not None:
            chunk, rank = request.chunk, -1 if request.forecast else request.rank
            entry = self.region.entries.get(chunk)
            if entry is not None:
                entry.needed_until = max(entry.needed_until, rank)
            elif chunk in self._in_flight:
                self._promised[chunk] = max(self._promised.get(chunk, -1), rank)
            else:
                nbytes = int(self._nbytes[chunk])
                full = request.forecast and self.region.used + nbytes > self._forecast_limit
                if not full and not self.region.reserve(nbytes):
                    return None
                self._queue.withdraw(request)
                if full:
                    continue
                self._in_flight.add(chunk)
                return request
            self._queue.withdraw(request)
        return None
