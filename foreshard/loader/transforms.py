"""Transforming batches in threads, ahead of the training loop, without changing their sequence."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from foreshard.errors import DeadlineError
from foreshard.loader.batch import Batch

Transform = Callable[[Batch], Any]
"""Makes of a batch what the training loop receives; several threads call it at a time, each for its own batch."""


class Transforms:
    """Threads that apply a function to batches. None runs before the first batch.

    Args:
        transform: the function.
        threads: how many batches are transformed at a time.
    """

    def __init__(self, transform: Transform, threads: int) -> None:
        self._transform = transform
        self._pool = ThreadPoolExecutor(threads, "foreshard-transform")

    def begin(self, batch: Batch) -> "Future[tuple[Any, float]]":
        """Begin to transform a batch; the result is what the function returned and the seconds it took."""
        return self._pool.submit(self._timed, batch)

    def _timed(self, batch: Batch) -> tuple[Any, float]:
        began = time.perf_counter()
        item = self._transform(batch)
        return item, time.perf_counter() - began

    def close(self) -> None:
        """Give up what has not begun and wait for the rest: a thread cannot be broken off."""
        self._pool.shutdown(cancel_futures=True)


def result(coming: "Future[tuple[Any, float]]", batch: Batch, timeout: float) -> tuple[Any, float]:
    """Return what became of a batch, and the seconds that took.

    Raises:
        DeadlineError: the function did not return in time.
        BaseException: whatever it raised.
    """
    try:
        return coming.result(timeout)
    except TimeoutError as error:
        if coming.done():  # the function's own
            raise
        raise DeadlineError(
            f"the transform of step {batch.step} of epoch {batch.epoch} did not return within {timeout} s; make it "
            "quicker or raise loader.timeout"
        ) from error
