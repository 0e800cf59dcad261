"""Fetches chunks into the bounded region ahead of their use, and on demand where it has not got round to them."""

import time
from collections.abc import Callable, Iterable
from threading import Condition, Lock, Thread, current_thread
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.errors import DeadlineError
from foreshard.prefetch.queue import PrefetchQueue, Request
from foreshard.prefetch.region import Entry, Lent, Region
from foreshard.prefetch.traffic import Traffic

Fetch = Callable[[int], pa.RecordBatch]
"""Reads, verifies and decodes one chunk; called by several threads at a time."""

# What a fetch under way may stand for instead of the last touch that it is promised to.
_NO_TOUCH: Final = -1
_UNWANTED: Final = -2


class Prefetcher:
    """Threads that fetch by deadline, under the region's byte ledger.

    It starts no thread before `begin` or `warm`. `lend` and `give_back` are for one assembling thread, which must have
    ended before `begin`; all other methods may be called from any thread. A prefetch that fails is only counted: the
    touch that needs its chunk reads it on demand, and raises if that fails too.

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
        self._in_flight: dict[int, int] = {}  # chunk -> last touch promised it
        self._threads: list[Thread] = []
        self._concurrency = 0
        self._forecast_limit = 0
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
                entry.needed_until = _NO_TOUCH
            for chunk in self._in_flight:  # their touches were another epoch's
                self._in_flight[chunk] = _NO_TOUCH if chunk in kept else _UNWANTED
            self._queue.push(Request(forecast=False, rank=touch, chunk=chunk) for touch, chunk in needed)
            self._run_threads(concurrency)

    def pause(self) -> None:
        """Give up everything that has not begun; what is in flight still lands."""
        with self._lock:
            self._queue.clear()

    def close(self) -> None:
        """Stop the threads and let the memory go; the prefetcher may be used again.

        Raises:
            DeadlineError: a fetch did not end in time, so its thread and its bytes are still there.
        """
        with self._lock:
            self._end_threads()
            threads = list(self._threads)
        deadline = time.perf_counter() + self._timeout
        for thread in threads:
            thread.join(max(deadline - time.perf_counter(), 0))
        with self._lock:
            for chunk in list(self.region.entries):
                self.region.drop(chunk)
            if any(thread.is_alive() for thread in threads):
                raise DeadlineError(
                    f"fetches of the chunks {sorted(self._in_flight)[:8]} did not end within {self._timeout} s; their "
                    "threads end with them: check the object store"
                )

    def dismiss(self) -> None:
        """Tell the threads to end without waiting for them: for an owner that was dropped without being closed."""
        # The garbage collector may call this in a thread that holds the lock: it must not wait for itself for ever.
        if self._lock.acquire(timeout=1):
            try:
                self._end_threads()
            finally:
                self._lock.release()

    def _end_threads(self) -> None:
        self._queue.clear()
        self._concurrency = 0
        self._in_flight = dict.fromkeys(self._in_flight, _UNWANTED)
        self._work.notify_all()

    def take_traffic(self) -> Traffic:
        """Return the counters and start them anew; what is in memory unused is left for the next time."""
        with self._lock:
            unused = [entry for entry in self.region.entries.values() if not entry.uses]
            traffic, self._traffic = self._traffic, self._traffic.leave(unused)
            traffic.peak_bytes, self.region.peak = self.region.peak, self.region.used
            return traffic

    # -- lending to the assembler ---------------------------------------------------------------------
    def lend(self, touch: int, chunk: int) -> Lent:
        """Return the chunk of a touch: from memory, once it has landed, or by a fetch on demand.

        Raises:
            DeadlineError: it did not land in time.
            ForeshardError: the fetch on demand failed.
        """
        start = time.perf_counter()
        with self._lock:
            entry = self._await(touch, chunk, start + self._timeout)
            if entry is not None:
                waited = int((time.perf_counter() - start) * 1e6)
                hit = entry.uses > 0 or entry.forecast
                if not entry.uses:
                    self._traffic.first_use(entry)
                return Lent(entry, hit, waited, bypass=False)
            self._queue.withdraw(Request(forecast=False, rank=touch, chunk=chunk))
            self._in_flight[chunk] = touch  # until it is given back: nobody shall fetch it meanwhile
        try:
            entry = self._timed_fetch(chunk)
        except BaseException:
            with self._lock:
                del self._in_flight[chunk]
            raise
        with self._lock:
            self._traffic.fetched(entry, ahead=False)
        return Lent(entry, hit=False, waited_us=int((time.perf_counter() - start) * 1e6), bypass=True)

    def give_back(self, touch: int, chunk: int, lent: Lent, *, keep: bool) -> None:
        """End a touch: the chunk stays if the schedule or a promise wants it and there is room."""
        entry = lent.entry
        with self._lock:
            entry.uses += 1
            if lent.bypass:
                promised = entry.needed_until = self._in_flight.pop(chunk)
                wanted = promised > touch or (keep and promised != _UNWANTED)
                if wanted and self.region.reserve(entry.nbytes):
                    self.region.put(chunk, entry)
                elif promised > touch:
                    self._queue.push([Request(forecast=False, rank=promised, chunk=chunk)])
            elif not keep and entry.needed_until <= touch and self.region.entries.get(chunk) is entry:
                self.region.drop(chunk)
            self._wake()

    def _await(self, touch: int, chunk: int, deadline: float) -> Entry | None:
        """Return a resident chunk, waiting while it is in flight; None if nobody is fetching it."""
        while True:
            entry = self.region.entries.get(chunk)
            if entry is not None:
                return entry
            if chunk not in self._in_flight:
                return None
            self._in_flight[chunk] = max(self._in_flight[chunk], touch)
            left = deadline - time.perf_counter()
            if left <= 0:
                raise DeadlineError(
                    f"chunk {chunk} ({self._nbytes[chunk]} bytes) did not arrive within {self._timeout} s; "
                    f"{len(self._in_flight)} fetches are in flight; check the object store or raise loader.timeout"
                )
            self._awaited = chunk
            self._landed.wait(left)
            self._awaited = -1

    def _wake(self) -> None:
        """Wake one idle fetching thread if there is enough for it to do."""
        if self._idle and len(self._queue) and self.region.budget - self.region.used >= self._wake_at:
            self._work.notify()

    # -- fetching -------------------------------------------------------------------------------------
    def _run_threads(self, concurrency: int) -> None:
        self._concurrency = concurrency
        while len(self._threads) < concurrency:
            thread = Thread(target=self._run, name=f"foreshard-fetch-{len(self._threads)}", daemon=True)
            thread.start()
            self._threads.append(thread)
        self._work.notify_all()

    def _run(self) -> None:
        while requests := self._next():
            for request in requests:
                try:
                    entry = self._timed_fetch(request.chunk)
                except Exception:  # noqa: BLE001 - the fetch on demand raises it if it was no passing trouble
                    with self._lock:
                        self._traffic.failed_requests += 1
                        self._let_go(request.chunk)
                    continue
                with self._lock:
                    self._land(request, entry)

    def _land(self, request: Request, entry: Entry) -> None:
        entry.forecast = request.forecast
        self._traffic.fetched(entry, ahead=True)
        entry.needed_until = self._in_flight[request.chunk]
        if entry.needed_until == _UNWANTED:
            self._let_go(request.chunk)
        else:
            del self._in_flight[request.chunk]
            self.region.put(request.chunk, entry)
            if request.chunk == self._awaited:
                self._landed.notify()

    def _let_go(self, chunk: int) -> None:
        """End a fetch that brings nothing; whoever waits for the chunk looks again."""
        del self._in_flight[chunk]
        self.region.release(int(self._nbytes[chunk]))
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
            chunk, rank = request.chunk, _NO_TOUCH if request.forecast else request.rank
            entry = self.region.entries.get(chunk)
            if entry is not None:
                entry.needed_until = max(entry.needed_until, rank)
            elif chunk in self._in_flight:
                self._in_flight[chunk] = max(self._in_flight[chunk], rank)
            else:
                nbytes = int(self._nbytes[chunk])
                full = request.forecast and self.region.used + nbytes > self._forecast_limit
                if not full and not self.region.reserve(nbytes):
                    return None
                self._queue.withdraw(request)
                if full:
                    continue
                self._in_flight[chunk] = rank
                return request
            self._queue.withdraw(request)
        return None
