"""Fetches chunks into the bounded region ahead of their use, and on demand where it has not got round to them."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import Condition, Lock, Thread, current_thread

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.errors import DeadlineError
from foreshard.prefetch.queue import PrefetchQueue, Request
from foreshard.prefetch.region import Entry, Region

Fetch = Callable[[int], pa.RecordBatch]
"""Reads, verifies and decodes one chunk; called by several threads at a time."""


@dataclass
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
        burst: most chunks a thread takes at a time. More than 1 pays where a fetch is quicker than waking a thread
            (local files); where a fetch is mostly waiting, every chunk should have a thread of its own.
    """

    def __init__(
        self, fetch: Fetch, nbytes: NDArray[np.int64], region: Region, *, timeout: float, burst: int = 1
    ) -> None:
        self.region = region
        self._fetch, self._nbytes, self._timeout, self._burst = fetch, nbytes, timeout, burst
        self._lock = Lock()
        self._landed = Condition(self._lock)  # the assembler waits here for the chunk `_awaited`
        self._work = Condition(self._lock)  # the fetching threads wait here for requests and for room
        self._awaited = -1
        self._idle = 0
        self._wake_at = 0
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
        with self._lock:
            self._forecast_limit = self.region.bypass + int(self.region.capacity * share)
            self._queue.push(Request(forecast=True, rank=i, chunk=c) for i, c in enumerate(chunks))
            self._run_threads(concurrency)

    def resident(self) -> frozenset[int]:
        """Return the chunks in memory or on their way; forecast requests not begun are given up."""
        with self._lock:
            self._queue.clear()
            return frozenset(self.region.entries) | frozenset(self._in_flight)

    def begin(
        self, needed: Iterable[tuple[int, int]], kept: frozenset[int], *, concurrency: int, ahead: int = 0
    ) -> None:
        """Start an epoch.

        Args:
            needed: (touch, chunk) pairs that the schedule wants fetched, by touch.
            kept: resident chunks that stay; the others are dropped.
            concurrency: fetches in flight at a time.
            ahead: bytes meant for fetching ahead. Where threads take bursts, one is woken when half of them are free.
        """
        with self._lock:
            self._queue.clear()
            self._wake_at = ahead // 2 if self._burst > 1 else 0
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
        with self._lock:
            self._queue.clear()

    def close(self) -> None:
        """Stop the threads and let the memory go."""
        with self._lock:
            self._queue.clear()
            self._concurrency = 0
            threads = list(self._threads)
            self._work.notify_all()
        for thread in threads:
            thread.join(self._timeout)
        with self._lock:
            for chunk in list(self.region.entries):
                self.region.drop(chunk)

    def take_traffic(self) -> Traffic:
        """Return the counters and start them anew."""
        with self._lock:
            traffic, self._traffic = self._traffic, Traffic()
            return traffic

    # -- lending to the assembler ---------------------------------------------------------------------
    def lend(self, touch: int, chunk: int) -> Lent:
        """Return the chunk of a touch: from memory, once it has landed, or by a fetch on demand.

        Raises:
            DeadlineError: it did not land in time.
        """
        start = time.perf_counter()
        with self._lock:
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
            with self._lock:
                self._in_flight.discard(chunk)
        with self._lock:
            self._traffic.origin_bytes += entry.nbytes
            self._traffic.origin_requests += 1
            self._traffic.demand_requests += 1
        return Lent(entry, hit=False, waited_us=int((time.perf_counter() - start) * 1e6), bypass=True)

    def give_back(self, touch: int, chunk: int, lent: Lent, *, keep: bool) -> None:
        """End a touch: the chunk stays if the schedule or a promise wants it and there is room."""
        entry = lent.entry
        with self._lock:
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
            self._wake()

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
            self._awaited = chunk
            self._landed.wait(left)
            self._awaited = -1

    def _count_use(self, entry: Entry) -> None:
        if entry.uses == 0:
            self._traffic.prefetched_used_bytes += entry.nbytes
            self._traffic.forecast_used_bytes += entry.nbytes if entry.forecast else 0

    def _wake(self) -> None:
        """Wake one idle fetching thread if there is enough for it to do."""
        if self._idle and len(self._queue) and self.region.budget - self.region.used >= self._wake_at:
            self._work.notify()

    # -- fetching -------------------------------------------------------------------------------------
    def _run_threads(self, concurrency: int) -> None:
        self._concurrency = concurrency
        while len(self._threads) < concurrency:
            thread = Thread(target=self._run, name=f"foreshard-fetch-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._work.notify_all()

    def _run(self) -> None:
        while requests := self._next():
            for request in requests:
                try:
                    entry = self._timed_fetch(request.chunk)
                except Exception as error:  # noqa: BLE001 - raised again in the thread that waits for the chunk
                    with self._lock:
                        self._failure = error
                        self._in_flight.discard(request.chunk)
                        self.region.release(int(self._nbytes[request.chunk]))
                        self._landed.notify()
                    continue
                with self._lock:
                    self._land(request, entry)

    def _land(self, request: Request, entry: Entry) -> None:
        chunk = request.chunk
        self._in_flight.discard(chunk)
        self._traffic.origin_bytes += entry.nbytes
        self._traffic.origin_requests += 1
        self._traffic.prefetched_bytes += entry.nbytes
        self._traffic.forecast_bytes += entry.nbytes if request.forecast else 0
        entry.forecast = request.forecast
        entry.needed_until = max(-1 if request.forecast else request.rank, self._promised.pop(chunk, -1))
        if chunk in self._unwanted and entry.needed_until < 0:
            self.region.release(entry.nbytes)
        else:
            self.region.put(chunk, entry)
        self._unwanted.discard(chunk)
        if chunk == self._awaited:
            self._landed.notify()

    def _timed_fetch(self, chunk: int) -> Entry:
        start = time.perf_counter()
        batch = self._fetch(chunk)
        return Entry(batch, int(self._nbytes[chunk]), int((time.perf_counter() - start) * 1e6))

    def _next(self) -> list[Request]:
        """Wait for requests whose bytes fit; none tell the thread to end."""
        with self._lock:
            while True:
                if len(self._threads) > self._concurrency:
                    self._threads.remove(current_thread())
                    return []
                taken: list[Request] = []
                while len(taken) < self._burst and (request := self._take()) is not None:
                    taken.append(request)
                if taken:
                    self._wake()  # what is left may be work for another thread
                    return taken
                self._idle += 1
                self._work.wait()
                self._idle -= 1

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
