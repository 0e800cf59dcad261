"""Threads are told to end before the interpreter ends, which would stop them wherever they are.

They are daemons, as a read that hangs must not keep a process. But a daemon that Python stops inside native code may
take the process with it: C++ that cannot be unwound there calls `abort`, and the exit code is that of a crash.
"""

import atexit
import os
import time
from threading import Thread
from typing import Final, Protocol
from weakref import WeakKeyDictionary, WeakSet

_PATIENCE_S: Final = 2.0


class Worker(Protocol):
    """What has threads of its own."""

    def dismiss(self) -> None:
        """Tell the threads to end, without waiting for them."""
        ...


_workers: Final[WeakKeyDictionary[Worker, int]] = WeakKeyDictionary()
"""By worker, its process: a forked one has none of these threads."""

_threads: Final[WeakSet[Thread]] = WeakSet()
"""Their own set: a thread may be all that is left of its worker, and drop it as its last deed."""


def end_at_exit(worker: Worker, thread: Thread) -> None:
    """Have a worker dismissed when the interpreter ends, which then waits a moment for the thread."""
    _workers[worker] = os.getpid()
    _threads.add(thread)


@atexit.register
def _end() -> None:
    for worker in [worker for worker, pid in list(_workers.items()) if pid == os.getpid()]:
        worker.dismiss()
    deadline = time.monotonic() + _PATIENCE_S
    for thread in list(_threads):
        if thread.is_alive():
            thread.join(max(deadline - time.monotonic(), 0))
