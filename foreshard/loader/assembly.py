"""Assembles batches from chunks in a thread of its own, a few batches ahead of the training loop."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition, Thread
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.errors import ConfigError, DeadlineError
from foreshard.loader.planning import Window
from foreshard.prefetch.arena import Arena
from foreshard.prefetch.gather import Gatherer
from foreshard.prefetch.prefetcher import Prefetcher

if TYPE_CHECKING:
    from foreshard.prefetch.region import Lent


@dataclass(frozen=True)
class Assembled:
    """One batch and what it took, chunk by chunk.

    Attributes:
        window: what was planned together with it.
        index: index of its step there.
        rows: the batch, in the order's sequence.
        chunks: int32 (t,), chunks touched.
        hit: bool (t,), whether each was in memory.
        nbytes: int32 (t,), bytes fetched for each touch; 0 for a hit.
        wait_us: int32 (t,), how long the assembler waited for each.
        fetch_us: int32 (t,), how long each fetch took.
        fetch_s: seconds in which the assembler waited for chunks or read them.
        gather_s: seconds that gathering the rows took.
    """

    window: Window
    index: int
    rows: pa.RecordBatch
    chunks: NDArray[np.int32]
    hit: NDArray[np.bool_]
    nbytes: NDArray[np.int32]
    wait_us: NDArray[np.int32]
    fetch_us: NDArray[np.int32]
    fetch_s: float = 0.0
    gather_s: float = 0.0


class Assembler:
    """Runs over a loop's windows and queues finished batches.

    Args:
        first: the loop's first window.
        following: returns the next one; None after the last.
        prefetcher: lends the chunks.
        arena: where they lie.
        gatherer: takes rows from there.
        depth: finished batches that may wait.
        timeout: seconds `next_batch` may wait.
    """

    def __init__(
        self,
        first: Window,
        following: Callable[[], Window | None],
        prefetcher: Prefetcher,
        *,
        arena: Arena,
        gatherer: Gatherer,
        depth: int,
        timeout: float,
    ) -> None:
        self._arena, self._gatherer = arena, gatherer
        self._window, self._following, self._prefetcher = first, following, prefetcher
        self._depth, self._timeout = depth, timeout
        self._ready: deque[Assembled] = deque()
        self._changed = Condition()
        self._failure: Exception | None = None
        self._stopped = False
        self._overdue = False
        self._touch = 0  # where the thread is, for messages
        self._thread = Thread(target=self._run, name="foreshard-assemble", daemon=True)

    def start(self) -> None:
        """Begin assembling."""
        self._thread.start()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    def next_batch(self) -> tuple[Assembled, float]:
        """Return the next batch and the seconds this call waited for it (0.0 if it was ready).

        Raises:
            DeadlineError: no batch was finished in time.
            ConfigError: the assembler was stopped.
            ForeshardError: whatever ended the thread.
        """
        with self._changed:
            waited = 0.0
            if not self._ready:
                start = time.perf_counter()
                self._changed.wait_for(lambda: self._ready or self._failure or self._stopped, self._timeout)
                waited = time.perf_counter() - start
                if not self._ready:
                    raise self._failure or self._why_none()
            batch = self._ready.popleft()
            self._changed.notify_all()
        return batch, waited

    def _why_none(self) -> ConfigError | DeadlineError:
        if self._stopped:
            return ConfigError("this loop was ended by the loader's close() or refresh(); start a new loop")
        self._overdue = True
        return DeadlineError(f"no batch was ready within {self._timeout} s; {self.where}")

    @property
    def where(self) -> str:
        """What the thread is doing, for messages."""
        window = self._window
        touch = min(self._touch, len(window.touches.chunks) - 1)
        chunks = window.touches.chunks
        what = f"reading chunk {chunks[touch]} (touch {window.base + touch})" if touch >= 0 else "beginning"
        state = "is" if self._thread.is_alive() else "died"
        return f"the assembling thread {state} {what}; check the object store or raise loader.timeout"

    def stop(self) -> bool:
        """End the thread; batches not yet taken are dropped.

        Returns:
            Whether it has ended: a read that hangs cannot be broken off, and the thread ends only with it.
        """
        with self._changed:
            self._stopped = True
            self._ready.clear()
            self._changed.notify_all()
        # Who has waited for a whole timeout already shall not wait for another.
        self._thread.join(0 if self._overdue else self._timeout)
        self._overdue = False
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while self._read_window():
                window = self._following()
                if window is None:
                    return
                self._prefetcher.cross(window.base, window.kept_at_start)
                self._touch, self._window = 0, window
        except Exception as error:  # noqa: BLE001 - raised again by next_batch
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _read_window(self) -> bool:
        """Assemble a window's batches; return whether the assembler was not stopped meanwhile."""
        for index in range(len(self._window.touches.steps)):
            batch = self._assemble(index)
            with self._changed:
                self._changed.wait_for(lambda: len(self._ready) < self._depth or self._stopped)
                if batch is None or self._stopped:
                    return False
                self._ready.append(batch)
                self._changed.notify_all()
        return not self._stopped

    def _assemble(self, index: int) -> Assembled | None:
        """Return the batch of a step, or None if the assembler was stopped."""
        window, plan = self._window, self._window.touches
        first, last = int(plan.step_offsets[index]), int(plan.step_offsets[index + 1])
        began = time.perf_counter()
        job = _Job(window, first, last, self._prefetcher, self._arena, self._gatherer)
        try:
            for at in job.begin():
                if self._stopped:
                    return None
                self._touch = first + at
                job.add(at)
            rows = job.finish()
        finally:
            job.abandon()
        figures = job.figures
        return Assembled(
            window,
            index,
            rows,
            plan.chunks[first:last],
            figures[0].astype(np.bool_),
            *(figures[i].astype(np.int32) for i in (1, 2, 3)),
            fetch_s=time.perf_counter() - began - job.gather_s,
            gather_s=job.gather_s,
        )


class _Job:
    """One batch being assembled: as many chunks at a time as are in memory together, all of them if possible.

    Attributes:
        figures: int64 (4, t), hit, bytes fetched, microseconds waited and microseconds fetched of each touch.
        gather_s: seconds that gathering took.
    """

    def __init__(
        self,
        window: Window,
        first: int,
        last: int,
        prefetcher: Prefetcher,
        arena: Arena,
        gatherer: Gatherer,
    ) -> None:
        self._prefetcher, self._arena, self._gatherer = prefetcher, arena, gatherer
        plan = window.touches
        self._first = window.base + first
        self._chunks: list[int] = plan.chunks[first:last].tolist()
        self._keep: list[bool] = window.keep[first:last].tolist()
        offsets = plan.row_offsets[first : last + 1]
        self._row_starts, self._counts = offsets[:-1] - offsets[0], np.diff(offsets)
        self._rows = plan.rows[offsets[0] : offsets[-1]].astype(np.int64)
        self._places = plan.places[offsets[0] : offsets[-1]]
        self._group: list[tuple[int, Lent]] = []
        self._parts: list[tuple[pa.RecordBatch, NDArray[np.int32]]] = []
        self.figures = np.zeros((4, last - first), np.int64)
        self.gather_s = 0.0

    def begin(self) -> list[int]:
        """Borrow what is in memory and return the touches whose chunks are not."""
        lent = self._prefetcher.lend_ready(self._chunks)
        self._group = [(at, one) for at, one in enumerate(lent) if one is not None]
        return [at for at, one in enumerate(lent) if one is None]

    def add(self, at: int) -> None:
        """Borrow one more chunk; those borrowed before are done with first if there is no room for all."""
        touch, chunk = self._first + at, self._chunks[at]
        lent = self._prefetcher.lend(touch, chunk, holding=bool(self._group))
        if lent is None:
            self._flush()
            lent = self._prefetcher.lend(touch, chunk)
            assert lent is not None, "only a holder is sent back"
        self._group.append((at, lent))
        if lent.bypass:
            self._flush()

    def finish(self) -> pa.RecordBatch:
        """Return the rows, each in its place of the batch."""
        if not self._parts and len(self._group) == len(self._chunks):
            inverse = np.empty(len(self._places), np.int64)
            inverse[self._places] = np.arange(len(self._places))
            self._flush(inverse)
            return self._parts[0][0]
        self._flush()
        arrow: Any = pa  # its stubs lack concat_batches
        gathered = arrow.concat_batches([rows for rows, _ in self._parts])
        places = np.concatenate([places for _, places in self._parts])
        inverse = np.empty(len(places), np.int64)
        inverse[places] = np.arange(len(places))
        return gathered.take(pa.array(inverse))

    def abandon(self) -> None:
        """Give back what is borrowed still."""
        if self._group:
            self._give_back()

    def _flush(self, order: NDArray[np.int64] | None = None) -> None:
        """Gather the rows of the chunks borrowed and give these back."""
        began = time.perf_counter()
        self._group.sort(key=lambda item: item[0])
        at = np.array([at for at, _ in self._group], np.int64)
        slots = np.array([lent.entry.held for _, lent in self._group], np.int64)
        counts = self._counts[at]
        # The rows of the group's touches, one touch after the other.
        ends = np.cumsum(counts)
        index = np.repeat(self._row_starts[at] - ends + counts, counts) + np.arange(int(counts.sum()))
        rows = self._gatherer.gather(self._arena, slots, counts, self._rows[index], order)
        self._parts.append((rows, self._places[index]))
        for i, lent in self._group:
            fetched = (0, 0) if lent.hit else (lent.entry.nbytes, lent.entry.fetch_us)
            self.figures[:, i] = lent.hit, fetched[0], lent.waited_us, fetched[1]
        self._give_back()
        self.gather_s += time.perf_counter() - began

    def _give_back(self) -> None:
        group, self._group = self._group, []
        self._prefetcher.give_back(
            [self._first + at for at, _ in group],
            [self._chunks[at] for at, _ in group],
            [lent for _, lent in group],
            [self._keep[at] for at, _ in group],
        )
