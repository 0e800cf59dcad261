"""Lends chunks to the assembler: from memory, once they have landed, or by a fetch on demand."""

import time
from collections.abc import Sequence

from foreshard.errors import DeadlineError
from foreshard.prefetch.fetchers import Fetchers
from foreshard.prefetch.intake import UNWANTED
from foreshard.prefetch.queue import Request
from foreshard.prefetch.region import Entry, Lent


class Prefetcher(Fetchers):
    """Threads that fetch by deadline, under the region's byte ledger, and what lends their chunks.

    It starts no thread before `begin` or `warm`. `lend`, `lend_ready` and `give_back` are for one assembling thread,
    which must have ended before `begin`; all other methods may be called from any thread. A prefetch that fails is only
    counted: the touch that needs its chunk reads it on demand, and raises if that fails too.

    A chunk is lent from `lend` to `give_back`; meanwhile no chunk is moved in memory. Fetched chunks may have to wait
    for that, so whoever holds some and asks for more says so (`holding`), and gives them back when asked to.
    """

    def resident_prefix(self, chunks: Sequence[int]) -> int:
        """Return how many of the first of these chunks are in memory."""
        with self._lock:
            entries = self.region.entries
            return next((at for at, chunk in enumerate(chunks) if chunk not in entries), len(chunks))

    def lend_ready(self, chunks: Sequence[int]) -> list[Lent | None]:
        """Return chunks as far as they are in memory; None for one that is not."""
        lent: list[Lent | None] = []
        with self._lock:
            entries = self.region.entries
            for chunk in chunks:
                entry = entries.get(chunk)
                lent.append(None if entry is None else self._lend(entry, 0))
            self._landing.lent += sum(one is not None for one in lent)
        return lent

    def lend(self, touch: int, chunk: int, *, holding: bool = False) -> Lent | None:
        """Return the chunk of a touch, or None if others must be given back first.

        Args:
            touch: the touch.
            chunk: what it needs.
            holding: whether other chunks are lent.

        Raises:
            DeadlineError: it did not land in time.
            ForeshardError: the fetch on demand failed.
        """
        start = time.perf_counter()
        nbytes = int(self._nbytes[chunk])
        with self._lock:
            entry = self._await(touch, chunk, start + self._timeout, holding=holding)
            if entry is not None:
                self._landing.lent += 1
                return self._lend(entry, int((time.perf_counter() - start) * 1e6))
            if holding and (self._landing.blocked or chunk in self._in_flight):
                return None
            reserved = self.region.reserve(nbytes)
            if holding and not reserved:
                return None
            self._queue.withdraw(Request(forecast=False, rank=touch, chunk=chunk))
            self._in_flight[chunk] = touch  # until it is given back: nobody shall fetch it meanwhile
        try:
            entry = self._landing.fetch([chunk], reserved=reserved)[0]
        except BaseException:
            with self._lock:
                self._traffic.failed_requests += 1
                del self._in_flight[chunk]
                self.region.release(nbytes if reserved else 0)
            raise
        with self._lock:
            self._count_wait(start)
            return self._lend_fetched(touch, chunk, entry, start, reserved=reserved)

    def _lend_fetched(self, touch: int, chunk: int, entry: Entry, start: float, *, reserved: bool) -> Lent:
        """Put a chunk that was fetched on demand among the others, or aside if there is no room."""
        entry.uses = 1
        self._traffic.fetched(entry, ahead=False)
        self._traffic.origin_requests += 1
        if reserved and self._landing.place(entry):
            promised = self._in_flight.pop(chunk)
            entry.needed_until = touch if promised == UNWANTED else promised
            self.region.put(chunk, entry)
            bypass = False
        else:
            if reserved:
                self.region.release(entry.nbytes)
            entry.held = self._holder.put_aside(entry.held)
            bypass = True
        self._landing.lent += 1
        return Lent(entry, hit=False, waited_us=int((time.perf_counter() - start) * 1e6), bypass=bypass)

    def _lend(self, entry: Entry, waited_us: int) -> Lent:
        hit = entry.uses > 0 or entry.forecast
        if not entry.uses:
            self._traffic.first_use(entry)
        entry.uses += 1  # at once, as several steps' touches of a chunk may be lent together
        return Lent(entry, hit, waited_us, bypass=False)

    def give_back(
        self, touches: Sequence[int], chunks: Sequence[int], lent: Sequence[Lent], keep: Sequence[bool]
    ) -> None:
        """End touches: a chunk stays if the schedule (`keep`) or a promise wants it and there is room."""
        with self._lock:
            self._landing.lent -= len(lent)
            if not self._landing.lent:
                self._landing.changed()
            for touch, chunk, one, stays in zip(touches, chunks, lent, keep, strict=True):
                entry = one.entry
                if one.bypass:
                    self._settle(touch, chunk, entry, stays=stays)
                elif not stays and entry.needed_until <= touch and self.region.entries.get(chunk) is entry:
                    self._drop(chunk)
            self._wake()

    def _settle(self, touch: int, chunk: int, entry: Entry, *, stays: bool) -> None:
        """Decide what becomes of a chunk that lies aside."""
        promised = entry.needed_until = self._in_flight.pop(chunk)
        wanted = promised > touch or (stays and promised != UNWANTED)
        if wanted and self.region.reserve(entry.nbytes):
            if self._landing.make_room(entry.nbytes):
                entry.held = self._holder.settle()
                self.region.put(chunk, entry)
                return
            self.region.release(entry.nbytes)
        if promised > touch:
            self._queue.push([Request(forecast=False, rank=promised, chunk=chunk)])

    def _await(self, touch: int, chunk: int, deadline: float, *, holding: bool) -> Entry | None:
        """Return a resident chunk, waiting while it is in flight; None if nobody is fetching it, or nobody can."""
        while True:
            entry = self.region.entries.get(chunk)
            if entry is not None:
                return entry
            if chunk not in self._in_flight or (holding and self._landing.blocked):
                return None
            self._in_flight[chunk] = max(self._in_flight[chunk], touch)
            left = deadline - time.perf_counter()
            if left <= 0:
                raise DeadlineError(
                    f"chunk {chunk} ({self._nbytes[chunk]} bytes) did not arrive within {self._timeout} s; "
                    f"{len(self._in_flight)} fetches are in flight; check the object store or raise loader.timeout"
                )
            self._awaited = chunk
            began = time.perf_counter()
            self._landed.wait(left)
            self._awaited = -1
            self._count_wait(began)

    def _count_wait(self, began: float) -> None:
        if self._control is not None:
            self._control.waited(max(time.perf_counter() - max(began, self.wanted_since), 0.0))
