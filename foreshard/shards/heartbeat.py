"""A thread that does something now and then, until told to stop or until what it serves is gone."""

import os
import weakref
from collections.abc import Callable
from threading import Event, Thread, current_thread
from typing import Final

from foreshard.errors import StorageError
from foreshard.exits import end_at_exit

_STOP_S: Final = 2.0


class Heartbeat:
    """Calls `beat` every `period` seconds from a thread of its own, from `start` on.

    It does not keep the object whose method it calls alive, and a forked child is without the thread: it may start its
    own.

    Args:
        beat: a bound method; returns whether to go on.
        period: seconds.
    """

    def __init__(self, beat: Callable[[], bool], period: float) -> None:
        self._beat = weakref.WeakMethod(beat)
        self._period = period
        self._thread: Thread | None = None
        self._pid = os.getpid()
        self._stop = Event()

    @property
    def running(self) -> bool:
        """Whether the thread runs in this process."""
        return self._pid == os.getpid() and self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Start the thread, if it does not run."""
        if not self.running:
            self._pid, self._stop = os.getpid(), Event()
            self._thread = Thread(target=_run, args=(self._beat, self._period, self._stop), daemon=True)
            self._thread.name = "foreshard-lease"
            self._thread.start()
            end_at_exit(self, self._thread)

    def dismiss(self) -> None:
        """Let the thread end by itself."""
        if self._pid == os.getpid():
            self._stop.set()

    def stop(self) -> None:
        """End the thread; one that hangs in the store is left to end by itself."""
        self.dismiss()
        if self.running and self._thread is not None and self._thread is not current_thread():
            self._thread.join(_STOP_S)


def _run(method: "weakref.WeakMethod[Callable[[], bool]]", period: float, stop: Event) -> None:
    while not stop.wait(period):
        beat = method()
        if beat is None:
            return
        try:
            if not beat():
                return
        except StorageError:
            continue  # the store may be back for the next one, and whoever needs the outcome asks for it
        finally:
            del beat  # not while it waits
