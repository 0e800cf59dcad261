"""Assembles batches from chunks in a thread of its own, a few batches ahead of the training loop."""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Condition, Thread
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.errors import ConfigError, DeadlineError
from foreshard.exits import end_at_exit
from foreshard.loader.batch import Batch
from foreshard.loader.job import ChunkMemory, Job
from foreshard.loader.one_loop import ENDED
from foreshard.loader.planning import Window
from foreshard.loader.transforms import Transforms, result

if TYPE_CHECKING:
    from concurrent.futures import Future

_TOGETHER: Final = 1 << 20  # bytes of batches that are assembled in one go


def waiting_batches(depth: int, batch_bytes: float) -> int:
    """Return how many finished batches may wait for the training loop where nothing transforms them.

    Args:
        depth: batches that were asked for.
        batch_bytes: of a batch, above 0.
    """
    return max(depth, int(2 * _TOGETHER / batch_bytes))


@dataclass(frozen=True)
class Assembled:
    """One batch and what it took, chunk by chunk.

    Attributes:
        batch: the batch, as the training loop receives it if nothing transforms it.
        window: what was planned together with it.
        index: index of its step there.
        chunks: int32 (t,), chunks touched.
        hit: bool (t,), whether each was in memory.
        nbytes: int32 (t,), bytes fetched for each touch; 0 for a hit.
        wait_us: int32 (t,), how long the assembler waited for each.
        fetch_us: int32 (t,), how long each fetch took.
        fetch_s: seconds in which the assembler waited for chunks or read them.
        gather_s: seconds that gathering the rows took.
        coming: what the batch is being made into; None if nothing is.
    """

    batch: Batch
    window: Window
    index: int
    chunks: NDArray[np.int32]
    hit: NDArray[np.bool_]
    nbytes: NDArray[np.int32]
    wait_us: NDArray[np.int32]
    fetch_us: NDArray[np.int32]
    fetch_s: float = 0.0
    gather_s: float = 0.0
    coming: "Future[tuple[Any, float]] | None" = None


class Assembler:
    """Runs over a loop's windows and queues finished batches.

    Args:
        first: the loop's first window.
        following: returns the next one; None after the last.
        memory: where the chunks lie.
        epoch: the epoch.
        depth: finished batches that may wait.
        timeout: seconds `next_batch` may wait.
        transforms: what transforms batches; None to hand them out as they are.

    Attributes:
        most: finished batches that may wait, `depth` at least, however small they are; None for 2 MiB of them.
    """

    def __init__(
        self,
        first: Window,
        following: Callable[[], Window | None],
        memory: ChunkMemory,
        *,
        epoch: int,
        depth: int,
        timeout: float,
        transforms: Transforms | None = None,
    ) -> None:
        self._window, self._following, self._memory = first, following, memory
        self._epoch, self._depth, self._timeout, self._transforms = epoch, depth, timeout, transforms
        self.most: int | None = None
        self._ready: deque[Assembled] = deque()
        self._low = depth - 1  # batches ready at which more are made
        self._batch_bytes = 0.0  # of the last ones, about; 0 if there was none yet
        self._changed = Condition()
        self._failure: Exception | None = None
        self._stopped = False
        self._overdue = False
        self._touch = 0  # where the thread is, for messages
        self._thread = Thread(target=self._run, name="foreshard-assemble", daemon=True)

    def start(self) -> None:
        """Begin assembling."""
        self._memory.prefetcher.wanted_since = math.inf
        self._thread.start()
        end_at_exit(self, self._thread)

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    def next_batch(self) -> tuple[Assembled, Any, float]:
        """Return the next batch, what it was made into, and the seconds this call waited for it (0.0 if it was ready).

        Raises:
            DeadlineError: no batch was finished in time.
            ConfigError: the assembler was stopped.
            ForeshardError: whatever ended the thread.
            Exception: whatever the transform raised.
        """
        with self._changed:
            waited = 0.0
            if not self._ready:
                start = self._memory.prefetcher.wanted_since = time.perf_counter()
                self._changed.wait_for(lambda: self._ready or self._failure or self._stopped, self._timeout)
                self._memory.prefetcher.wanted_since = math.inf
                waited = time.perf_counter() - start
                if not self._ready:
                    raise self._failure or self._why_none()
            made = self._ready.popleft()
            if len(self._ready) <= self._low:
                self._changed.notify_all()
        if made.coming is None:
            return made, made.batch, waited
        start, ready = time.perf_counter(), made.coming.done()
        item, spent = result(made.coming, made.batch, self._timeout)
        waited += 0.0 if ready else time.perf_counter() - start
        return replace(made, gather_s=made.gather_s + spent), item, waited

    def _why_none(self) -> ConfigError | DeadlineError:
        if self._stopped:
            return ConfigError(ENDED)
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
        self.dismiss()
        # Who has waited for a whole timeout already shall not wait for another.
        self._thread.join(0 if self._overdue else self._timeout)
        self._overdue = False
        if self._transforms is not None:
            self._transforms.close()
        return not self._thread.is_alive()

    def dismiss(self) -> None:
        """Tell the thread to end, without waiting for it."""
        with self._changed:
            self._stopped = True
            self._ready.clear()
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            while self._read_window():
                window = self._following()
                if window is None:
                    return
                self._memory.prefetcher.cross(window.base, window.kept_at_start, ahead=window.ahead)
                self._touch, self._window = 0, window
        except Exception as error:  # noqa: BLE001 - raised again by next_batch
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _read_window(self) -> bool:
        """Assemble a window's batches; return whether the assembler was not stopped meanwhile."""
        index, steps = 0, len(self._window.touches.steps)
        while index < steps:
            with self._changed:
                most = self._most()
                together = self._together(index, max(most // 2, 1))
                self._low = most - together
                self._changed.wait_for(lambda: len(self._ready) <= self._low or self._stopped)
            batches = self._assemble(index, index + together) if not self._stopped else []
            with self._changed:
                if self._stopped or not batches:
                    return False
                self._ready.extend(batches)
                self._changed.notify_all()
            index += len(batches)
        return not self._stopped

    def _most(self) -> int:
        """Return how many batches may wait: more than were asked for where they are small, and stay so."""
        if self._transforms is not None or not self._batch_bytes:
            return self._depth
        most = waiting_batches(self._depth, self._batch_bytes)
        return most if self.most is None else max(min(most, self.most), self._depth)

    def _together(self, index: int, most: int) -> int:
        """Return how many of the next batches to assemble in one go: small ones, as far as their chunks are there.

        What a batch costs beside its rows is paid once for all of them then.
        """
        plan = self._window.touches
        if not self._batch_bytes:
            return 1
        most = min(most, int(_TOGETHER / self._batch_bytes), len(plan.batch_offsets) - 1 - index)
        if most <= 1:
            return 1
        first, ends = plan.step_offsets[index], plan.step_offsets[index + 1 : index + most + 1]
        there = self._memory.prefetcher.resident_prefix(plan.chunks[first : ends[-1]].tolist())
        return max(int(np.searchsorted(ends - first, there, side="right")), 1)

    def _assemble(self, index: int, stop: int) -> list[Assembled]:
        """Return the batches of some steps; none if the assembler was stopped."""
        first = int(self._window.touches.step_offsets[index])
        began = time.perf_counter()
        job = Job(self._window, index, stop, self._memory)
        try:
            for at in job.begin():
                if self._stopped:
                    return []
                self._touch = first + at
                job.add(at)
            rows = job.finish()
        finally:
            job.abandon()
        self._batch_bytes = max(rows.get_total_buffer_size() / (stop - index), 1.0)
        spent = (time.perf_counter() - began - job.gather_s) / (stop - index), job.gather_s / (stop - index)
        return [self._batch(step, rows, index, job, spent) for step in range(index, stop)]

    def _batch(self, at: int, rows: pa.RecordBatch, index: int, job: Job, spent: tuple[float, float]) -> Assembled:
        """Cut a step's batch out of what was assembled together from the step `index` on."""
        window, plan = self._window, self._window.touches
        start, end = int(plan.batch_offsets[at]), int(plan.batch_offsets[at + 1])
        first, last = int(plan.step_offsets[at]), int(plan.step_offsets[at + 1])
        begin = int(plan.step_offsets[index])
        figures = job.figures[:, first - begin : last - begin]
        mine = rows.slice(start - int(plan.batch_offsets[index]), end - start)
        batch = Batch(self._epoch, int(plan.steps[at]), plan.sample_ids[start:end], plan.positions[start:end], mine)
        return Assembled(
            batch,
            window,
            at,
            plan.chunks[first:last],
            figures[0].astype(np.bool_),
            *(figures[i].astype(np.int32) for i in (1, 2, 3)),
            fetch_s=spent[0],
            gather_s=spent[1],
            coming=self._transforms.begin(batch) if self._transforms is not None else None,
        )
