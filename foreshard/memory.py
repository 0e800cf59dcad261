"""Memory that was freed and lies idle in the allocator's pools goes back to the system."""

import ctypes
import functools
from collections.abc import Callable


def give_back() -> None:
    """Give back what was freed, where the C library can: glibc can, others do nothing here.

    glibc has a pool for every few threads and keeps some megabytes of what each of them freed. Threads that come and
    go, as with every epoch, do not always get the pool of those before them, so that more and more pools keep some.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    try:
        found = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    found.argtypes, found.restype = [ctypes.c_size_t], ctypes.c_int
    return found
