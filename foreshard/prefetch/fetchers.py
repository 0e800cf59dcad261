"""Threads that fetch chunks by deadline into the bounded region, under its byte ledger."""

import time
from collections.abc import Iterable
from threading import Condition, Lock, Thread, current_thread

import numpy as np
from numpy.typing import NDArray

from foreshard.errors import DeadlineError
from foreshard.exits import end_at_exit
from foreshard.prefetch.intake import NO_TOUCH, UNWANTED, Intake
from foreshard.prefetch.landing import Direct, Fetch, Landing
from foreshard.prefetch.queue import Request
from foreshard.prefetch.region import Entry, Holder, Region
from foreshard.prefetch.requests import Requests
from foreshard.prefetch.traffic import Traffic


class Fetchers:
    """The part of a prefetcher that runs in threads of its own; see `Prefetcher` for what may be called when.

    Args:
        fetch: reads chunks.
        nbytes: size of every chunk, shape (C,).
        region: the memory's ledger.
        holder: the memory.
        timeout: seconds any wait may last.
        burst: most chunks a thread takes at a time. More than 1 pays where a fetch is quicker than waking a thread
            (local files); where a fetch is mostly waiting, every run of chunks should have a thread of its own.
        requests: how many requests are in flight, and which chunks come together; None to read each chunk by itself and
            as many at a time as `warm` and `begin` are told.
        direct: reads chunks to where they shall lie, which spares copies; None where nothing can.

    Attributes:
        wanted_since: since when the training loop has been waiting for a batch, by `time.perf_counter`; `inf` while it
            is not. What only the assembler waits costs nobody anything, and asks for no more fetches in flight.
    """

    def __init__(
        self,
        fetch: Fetch,
        nbytes: NDArray[np.int64],
        region: Region,
        holder: Holder,
        *,
        timeout: float,
        burst: int = 1,
        requests: Requests | None = None,
        direct: Direct | None = None,
    ) -> None:
        self.region, self._holder = region, holder
        self._nbytes, self._timeout, self._burst = nbytes, timeout, burst
        self._lock = Lock()
        self._landed = Condition(self._lock)  # the assembler waits here for the chunk `_awaited`
        self._work = Condition(self._lock)  # the fetching threads wait here for requests and for room
        self._landing = Landing(holder, nbytes, fetch, direct, self._lock)  # and here for a place in memory
        self._awaited = -1
        self._idle = self._wake_at = 0
        self._intake = Intake(region, nbytes, requests)
        self._queue, self._in_flight = self._intake.queue, self._intake.in_flight
        self._threads: list[Thread] = []
        self._control, self._concurrency = requests.control if requests else None, 0
        self.wanted_since = 0.0
        self._traffic = Traffic()

    # -- what to fetch --------------------------------------------------------------------------------
    def warm(self, chunks: Iterable[int], *, share: float, concurrency: int | None = None) -> None:
        """Fetch chunks that the forecast suggests, in the given order, into at most `share` of the region."""
        with self._lock:
            self._intake.forecast_limit = self.region.bypass + int(self.region.capacity * share)
            self._queue.push(Request(forecast=True, rank=i, chunk=c) for i, c in enumerate(chunks))
            self._run_threads(concurrency)

    def resident(self) -> frozenset[int]:
        """Return the chunks in memory or on their way; forecast requests not begun are given up."""
        with self._lock:
            self._queue.clear()
            return frozenset(self.region.entries) | frozenset(self._in_flight)

    def begin(
        self,
        needed: Iterable[tuple[int, int]],
        kept: frozenset[int],
        *,
        concurrency: int | None = None,
        ahead: int = 0,
    ) -> None:
        """Start a loop.

        Args:
            needed: (touch, chunk) pairs that the schedule wants fetched, by touch.
            kept: resident chunks that stay; the others are dropped.
            concurrency: fetches in flight at a time; by default what the control finds.
            ahead: bytes meant for fetching ahead. Where threads take bursts, one is woken when half of them are free.
        """
        with self._lock:
            self._queue.clear()
            self._set_wake(ahead)
            for chunk in [c for c in self.region.entries if c not in kept]:
                self._drop(chunk)
            for entry in self.region.entries.values():
                entry.needed_until = NO_TOUCH
            for chunk in self._in_flight:  # their touches were another loop's
                self._in_flight[chunk] = NO_TOUCH if chunk in kept else UNWANTED
            self._queue.push(Request(forecast=False, rank=touch, chunk=chunk) for touch, chunk in needed)
            self._run_threads(concurrency)

    def extend(self, needed: Iterable[tuple[int, int]]) -> None:
        """Add what the touches after those of `begin` want fetched; see there."""
        with self._lock:
            self._queue.push(Request(forecast=False, rank=touch, chunk=chunk) for touch, chunk in needed)
            self._work.notify_all()

    def cross(self, touch: int, kept: frozenset[int], *, ahead: int = 0) -> None:
        """Go on to touches that `extend` told of; those before are done.

        Args:
            touch: the first of them.
            kept: resident chunks that stay, beside those promised to it or a later one; the others are dropped.
            ahead: as in `begin`, from now on.
        """
        with self._lock:
            self._set_wake(ahead)
            entries = self.region.entries
            for chunk in [c for c, e in entries.items() if e.needed_until < touch and c not in kept]:
                self._drop(chunk)
            self._wake()

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
                self._drop(chunk)
            self._holder.clear()
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

    def take_traffic(self) -> Traffic:
        """Return the counters and start them anew; what is in memory unused is left for the next time."""
        with self._lock:
            unused = [entry for entry in self.region.entries.values() if not entry.uses]
            traffic, self._traffic = self._traffic, self._traffic.leave(unused)
            traffic.peak_bytes, self.region.peak = self.region.peak, self.region.used
            return traffic

    # -- the threads ----------------------------------------------------------------------------------
    def _end_threads(self) -> None:
        self._queue.clear()
        self._concurrency = 0
        self._in_flight.update(dict.fromkeys(self._in_flight, UNWANTED))
        self._work.notify_all()
        self._landing.changed()

    def _run_threads(self, concurrency: int | None) -> None:
        if concurrency is None:
            assert self._control is not None, "without a control somebody says how many"
            self._control.begin()
            concurrency = self._control.limit
        self._set_threads(concurrency)

    def _set_threads(self, concurrency: int) -> None:
        self._concurrency = concurrency
        while len(self._threads) < concurrency:
            thread = Thread(target=self._run, name=f"foreshard-fetch-{len(self._threads)}", daemon=True)
            thread.start()
            self._threads.append(thread)
            end_at_exit(self, thread)
        self._work.notify_all()

    def _run(self) -> None:
        while runs := self._next():
            for run in runs:
                try:
                    entries = self._landing.fetch([request.chunk for request in run], reserved=True)
                except Exception:  # noqa: BLE001 - the fetch on demand raises it if it was no passing trouble
                    with self._lock:
                        self._traffic.failed_requests += 1
                        for request in run:
                            self._let_go(request.chunk)
                        self._adapt(0, failed=True)
                    continue
                with self._lock:
                    self._traffic.origin_requests += 1
                    self._adapt(sum(entry.nbytes for entry in entries))
                    for request, entry in zip(run, entries, strict=True):
                        self._land(request, entry)

    def _adapt(self, nbytes: int, *, failed: bool = False) -> None:
        if self._control is not None and self._concurrency:
            limit = self._control.done(nbytes, failed=failed)
            if limit != self._concurrency:
                self._set_threads(limit)

    def _land(self, request: Request, entry: Entry) -> None:
        chunk = request.chunk
        entry.forecast = request.forecast
        self._traffic.fetched(entry, ahead=True)
        while self._in_flight[chunk] != UNWANTED and not self._landing.place(entry):
            self._landed.notify_all()
            self._landing.wait(self._timeout)
        entry.needed_until = self._in_flight[chunk]
        if entry.needed_until == UNWANTED:
            self._landing.give_up(entry)
            self._let_go(chunk)
        else:
            del self._in_flight[chunk]
            self.region.put(chunk, entry)
            if chunk == self._awaited:
                self._landed.notify_all()

    def _drop(self, chunk: int) -> None:
        self._holder.free(self.region.drop(chunk).held)

    def _let_go(self, chunk: int) -> None:
        """End a fetch that brings nothing; whoever waits for the chunk looks again."""
        del self._in_flight[chunk]
        self.region.release(int(self._nbytes[chunk]))
        if chunk == self._awaited:
            self._landed.notify_all()

    def _set_wake(self, ahead: int) -> None:
        self._wake_at = ahead // 2 if self._burst > 1 else 0

    def _wake(self) -> None:
        """Wake one idle fetching thread if there is enough for it to do."""
        if self._idle and len(self._queue) and self.region.budget - self.region.used >= self._wake_at:
            self._work.notify()

    # -- what a thread takes --------------------------------------------------------------------------
    def _next(self) -> list[list[Request]]:
        """Wait for requests whose bytes fit, by runs that are read in one go; none tell the thread to end."""
        with self._lock:
            while True:
                if len(self._threads) > self._concurrency:
                    self._threads.remove(current_thread())
                    return []
                taken: list[list[Request]] = []
                while len(taken) < self._burst and (run := self._intake.take()):
                    taken.append(run)
                if taken:
                    self._wake()  # what is left may be work for another thread
                    return taken
                self._idle += 1
                self._work.wait()
                self._idle -= 1
