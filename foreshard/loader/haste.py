"""Ending a loop, also for someone who is in a hurry, as after Ctrl-C."""

from threading import Lock, Thread
from typing import Final

from foreshard.loader.loops import Loop

_PATIENCE_S: Final = 2.0


class Ending:
    """Ends loops, one at a time."""

    def __init__(self) -> None:
        self._lock = Lock()

    def stop(self, loop: Loop) -> bool:
        """Stop a loop; return whether all of its threads have ended."""
        with self._lock:
            return loop.stop()

    def stop_soon(self, loop: Loop) -> bool:
        """Stop a loop, but wait no longer than a moment for a read that hangs: another thread goes on waiting.

        Returns:
            Whether all of its threads have ended; if not, `stop` waits for them.
        """
        ended: list[bool] = []
        ending = Thread(target=lambda: ended.append(self.stop(loop)), name="foreshard-end", daemon=True)
        ending.start()
        ending.join(_PATIENCE_S)
        return ended == [True]
