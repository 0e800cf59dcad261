"""Assembles batches from chunks in a thread of its own, a few batches ahead of the training loop."""

import time
from collections import deque
from dataclasses import dataclass
from threading import Condition, Thread
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.errors import ConfigError, DeadlineError
from foreshard.prefetch.prefetcher import Prefetcher
from foreshard.prefetch.schedule import Touches


@dataclass(frozen=True)
class Assembled:
    """One batch and what it took, chunk by chunk.

    Attributes:
        index: index of the step in the schedule.
        rows: the batch, in the order's sequence.
        chunks: int32 (t,), chunks touched.
        hit: bool (t,), whether each was in memory.
        nbytes: int32 (t,), bytes fetched for each touch; 0 for a hit.
        wait_us: int32 (t,), how long the assembler waited for each.
        fetch_us: int32 (t,), how long each fetch took.
    """

    index: int
    rows: pa.RecordBatch
    chunks: NDArray[np.int32]
    hit: NDArray[np.bool_]
    nbytes: NDArray[np.int32]
    wait_us: NDArray[np.int32]
    fetch_us: NDArray[np.int32]


class Assembler:
    """Runs over a schedule and queues finished batches.

    Args:
        touches: the schedule.
        keep: bool (m,), whether each touch's chunk stays resident after it.
        prefetcher: lends the chunks.
        schema: columns of a batch; an owner-dealt batch may have no row for this rank.
        depth: finished batches that may wait.
        timeout: seconds `next_batch` may wait.
    """

    def __init__(
        self,
        touches: Touches,
        keep: NDArray[np.bool_],
        prefetcher: Prefetcher,
        *,
        schema: pa.Schema,
        depth: int,
        timeout: float,
    ) -> None:
        self._schema = schema
        self._touches, self._keep, self._prefetcher = touches, keep, prefetcher
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
        touch = min(self._touch, len(self._touches.chunks) - 1)
        what = f"reading chunk {self._touches.chunks[touch]} (touch {touch})" if touch >= 0 else "beginning"
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
            for index in range(len(self._touches.steps)):
                batch = self._assemble(index)
                with self._changed:
                    self._changed.wait_for(lambda: len(self._ready) < self._depth or self._stopped)
                    if batch is None or self._stopped:
                        return
                    self._ready.append(batch)
                    self._changed.notify_all()
        except Exception as error:  # noqa: BLE001 - raised again by next_batch
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _assemble(self, index: int) -> Assembled | None:
        """Return the batch of a step, or None if the assembler was stopped."""
        plan = self._touches
        first, last = int(plan.step_offsets[index]), int(plan.step_offsets[index + 1])
        parts: list[pa.RecordBatch] = []
        figures = np.empty((4, last - first), np.int64)
        for touch in range(first, last):
            if self._stopped:
                return None
            self._touch = touch
            chunk = int(plan.chunks[touch])
            lent = self._prefetcher.lend(touch, chunk)
            try:
                wanted = plan.rows[plan.row_offsets[touch] : plan.row_offsets[touch + 1]]
                parts.append(_take(lent.entry.batch, wanted))
            finally:
                self._prefetcher.give_back(touch, chunk, lent, keep=bool(self._keep[touch]))
            fetched = 0 if lent.hit else lent.entry.nbytes
            figures[:, touch - first] = lent.hit, fetched, lent.waited_us, 0 if lent.hit else lent.entry.fetch_us
        places = plan.places[plan.row_offsets[first] : plan.row_offsets[last]]
        return Assembled(
            index,
            self._in_order(parts, places),
            plan.chunks[first:last],
            figures[0].astype(np.bool_),
            *(figures[i].astype(np.int32) for i in (1, 2, 3)),
        )

    def _in_order(self, parts: list[pa.RecordBatch], places: NDArray[np.int32]) -> pa.RecordBatch:
        """Join rows gathered chunk by chunk and put each in its place of the batch."""
        if not parts:  # an owner-dealt batch may have no row for this rank
            return pa.RecordBatch.from_pylist([], self._schema)
        arrow: Any = pa  # its stubs lack concat_batches
        gathered = arrow.concat_batches(parts)
        inverse = np.empty(len(places), np.int32)
        inverse[places] = np.arange(len(places), dtype=np.int32)
        return _take(gathered, inverse)


def _take(batch: pa.RecordBatch, rows: NDArray[np.int32]) -> pa.RecordBatch:
    take: Any = batch.take  # its stub refuses integer arrays that are not lists
    return take(pa.array(rows))
