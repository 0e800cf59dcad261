"""Compare-and-swap that tells its own write from everybody else's, however often a client repeats a request."""

import time
from contextlib import suppress
from typing import Final

from foreshard.errors import ConflictError, ObjectNotFoundError
from foreshard.storage import ObjectStore

# Goes on while the machine is suspended, as deadlines do; where a system lacks it, the nearest clock.
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def elapsed() -> float:
    """Return seconds since some fixed moment, the machine's sleep included."""
    return time.clock_gettime(_CLOCK)


def swap_unique(store: ObjectStore, key: str, raw: bytes, expected: str | None) -> str | None:
    """Replace an object if its entity tag is still `expected` (None: if there is none).

    Args:
        store: where it is.
        key: its key.
        raw: the new content; must hold something that no other write ever holds.
        expected: see `ObjectStore.swap`.

    Returns:
        The new entity tag, or None if the object is not (or no longer) what was written here.
    """
    # What is refused may still be this write, whose first answer was lost.
    with suppress(ConflictError, ObjectNotFoundError):
        store.swap(key, raw, expected)
    tagged = store.get_tagged(key)
    return tagged[1] if tagged is not None and tagged[0] == raw else None
