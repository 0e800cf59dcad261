"""One loop at a time over a loader, and nothing that would be lost in it."""

import os
from typing import Final

from foreshard.errors import ConfigError

ITERATED: Final = "this loader is being iterated already; finish that loop or call close() first"
ENDED: Final = "this loop was ended by the loader's close(); start a new loop"
"""What a second loop, and one that goes on all the same, are told."""


class OneLoop:
    """Knows whether a loop is under way. A process that was forked meanwhile begins without any."""

    def __init__(self) -> None:
        self._now: object | None = None
        self._pid = os.getpid()

    def check_idle(self) -> None:
        """Refuse what cannot be done in a loop.

        Raises:
            ConfigError: one is under way.
        """
        if self._now is not None and self._pid == os.getpid():
            raise ConfigError(ITERATED)

    def begin(self) -> object:
        """Begin a loop, and return what stands for it.

        Raises:
            ConfigError: another is under way.
        """
        self.check_idle()
        self._now, self._pid = object(), os.getpid()
        return self._now

    def check(self, loop: object) -> None:
        """Refuse to go on with a loop that was ended from outside.

        Raises:
            ConfigError: it was.
        """
        if self._now is not loop:
            raise ConfigError(ENDED)

    def end(self, loop: object | None = None) -> None:
        """End a loop, unless another has begun since; or whichever is under way."""
        if loop is None or self._now is loop:
            self._now = None
