"""Threads are told to end before the interpreter ends, which would stop them wherever they are.

They are daemons, as a read that hangs must not keep a process. But a daemon that Python stops inside native code may
take the process with it: C++ that cannot be unwound there calls `abort`, and the exit code is that of a crash.
"""

import atexit
import os
import time
from collections.abc import Sequence
from threading import Thread
from typing import Final, Protocol
from weakref import WeakKeyDictionary

_PATIENCE_S: Final = 2.0


class Worker(Protocol):
    """What has threads of its own."""

    def dismiss(self) -> None:
        """Tell the threads to end, without waiting for them."""
        ...

    def threads(self) -> Sequence[Thread]:
        """Return the threads."""
        ...


_workers: Final[WeakKeyDictionary[Worker, int]] = WeakKeyDictionary()
"""By worker, its process: a forked one has none of these threads."""


def end_at_exit(worker: Worker) -> None:
    """Have a worker dismissed when the interpreter ends, which then waits a moment for the threads."""
    _workers[worker] = os.getpid()


@atexit.register
def _end() -> None:
    mine = [worker for worker, pid in list(_workers.items()) if pid == os.getpid()]
    for worker in mine:
        worker.dismiss()
    deadline = time.monotonic() + _PATIENCE_S
    for thread in [thread for worker in mine for thread in worker.threads() if thread.is_alive()]:
        thread.join(max(deadline - time.monotonic(), 0))
