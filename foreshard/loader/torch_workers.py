"""The workers of a PyTorch DataLoader: which have died, and how they are waited for and ended.

The DataLoader has no public way to either, so this reaches into its iterator.
"""

import time
import weakref
from typing import Any, Final

_LOOK_S: Final = 2.0
"""Seconds between two looks at the workers while a batch is waited for."""


def dead_workers(batches: Any, patience: float = 0.0) -> list[str]:  # noqa: ANN401 - the DataLoader's iterator
    """Return the process ids of the workers that have died.

    Args:
        batches: the iterator; one without workers has no dead ones.
        patience: seconds for each worker, whose connection may have broken before it is counted as dead.
    """
    workers = getattr(batches, "_workers", ())
    for worker in workers:
        worker.join(patience)
    return [str(worker.pid) for worker in workers if not worker.is_alive()]


def watch_workers(batches: Any) -> None:  # noqa: ANN401
    """Let a wait for a batch end soon after a worker has died, not only at its deadline.

    The DataLoader looks at its workers after a wait without success. With a deadline that is one wait for all of it,
    and signals tell of children alone, so that nobody hears of the death of a forkserver's worker.
    """
    if not hasattr(batches, "_try_get_data") or "_try_get_data" in vars(batches):
        return
    mine, wait = weakref.ref(batches), type(batches)._try_get_data  # noqa: SLF001

    def watched(timeout: float = _LOOK_S) -> tuple[bool, Any]:
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            found = wait(mine(), max(min(left, _LOOK_S), 0))
            if found[0] or left <= _LOOK_S:
                return found

    batches._try_get_data = watched  # noqa: SLF001


def end_workers(batches: Any) -> None:  # noqa: ANN401
    """End the workers, dead or alive; those that hang are killed."""
    if hasattr(batches, "_shutdown_workers"):
        batches._shutdown_workers()  # noqa: SLF001
