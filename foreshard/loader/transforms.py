"""Transforming batches in threads, ahead of the training loop, without changing their sequence."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, Final

from foreshard.errors import DeadlineError
from foreshard.exits import end_at_exit
from foreshard.loader.batch import Batch

Transform = Callable[[Batch], Any]
"""Makes of a batch what the training loop receives; several threads call it at a time, each for its own batch."""

_PARTING_S: Final = 10.0
"""Seconds that batches under way have when the loop ends."""


class Transforms:
    """Threads that apply a function to batches. None runs before the first batch.

    They are daemons, unlike those of an executor, which Python waits for at its end: a function that hangs must not
    keep the process from ending.

    Args:
        transform: the function.
        threads: how many batches are transformed at a time.
    """

    def __init__(self, transform: Transform, threads: int) -> None:
        self._transform, self._most = transform, threads
        self._waiting: SimpleQueue[tuple[Future[tuple[Any, float]], Batch] | None] = SimpleQueue()
        self._threads: list[Thread] = []
        self._lock, self._closed = Lock(), False

    def begin(self, batch: Batch) -> "Future[tuple[Any, float]]":
        """Begin to transform a batch; the result is what the function returned and the seconds it took."""
        coming: Future[tuple[Any, float]] = Future()
        with self._lock:
            if self._closed:
                coming.cancel()
                return coming
            self._waiting.put((coming, batch))
            if len(self._threads) < self._most:
                name = f"foreshard-transform-{len(self._threads)}"
                self._threads.append(Thread(target=self._run, name=name, daemon=True))
                self._threads[-1].start()
                end_at_exit(self, self._threads[-1])
        return coming

    def _run(self) -> None:
        while self._take_turn():
            pass  # holds no batch while it waits for the next one

    def _take_turn(self) -> bool:
        taken = self._waiting.get()
        if taken is None:
            return False
        coming, batch = taken
        if self._closed:
            coming.cancel()
        if coming.set_running_or_notify_cancel():
            began = time.perf_counter()
            try:
                item = self._transform(batch)
            except BaseException as error:  # noqa: BLE001 - raised where the batch is asked for
                coming.set_exception(error)
            else:
                coming.set_result((item, time.perf_counter() - began))
        return True

    def dismiss(self) -> None:
        """Give up what has not begun, without waiting for the rest."""
        with self._lock:
            self._closed = True
            for _ in self._threads:
                self._waiting.put(None)

    def close(self) -> None:
        """Give up what has not begun and wait for the rest, but not for long: a thread cannot be broken off."""
        self.dismiss()
        deadline = time.monotonic() + _PARTING_S
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))


def result(coming: "Future[tuple[Any, float]]", batch: Batch, timeout: float) -> tuple[Any, float]:
    """Return what became of a batch, and the seconds that took.

    Raises:
        DeadlineError: the function did not return in time.
        BaseException: whatever it raised.
    """
    try:
        return coming.result(timeout)
    except TimeoutError as error:
        if coming.done():  # the function's own, or it returned at the very last moment
            return coming.result()
        raise DeadlineError(
            f"the transform of step {batch.step} of epoch {batch.epoch} did not return within {timeout} s; make it "
            "quicker or raise loader.timeout"
        ) from error
