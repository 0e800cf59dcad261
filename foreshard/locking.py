"""Locks by `flock`, which the kernel drops when the process that holds them ends, however it ends."""

import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from foreshard.errors import DeadlineError

_SHORTEST_S: Final = 0.0002
_LONGEST_S: Final = 0.01


def open_file(path: Path, *, mode: int = 0o600) -> int:
    """Open a file to be locked, made if missing, and return its descriptor; no program that is started inherits it."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)


def try_lock(handle: int, *, shared: bool = False) -> bool:
    """Take a file's lock unless someone else has it."""
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock(handle: int, timeout: float) -> bool:
    """Take a file's lock; False if that was not possible within so many seconds."""
    deadline, pause = time.monotonic() + timeout, _SHORTEST_S
    while not try_lock(handle):  # flock itself knows no deadline
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_S)
    return True


def unlock(handle: int) -> None:
    """Give a file's lock up, for every process that has this descriptor from a fork, too."""
    fcntl.flock(handle, fcntl.LOCK_UN)


def is_locked(path: Path) -> bool:
    """Whether somebody holds a file's lock."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not try_lock(handle, shared=True)
    finally:
        os.close(handle)


@contextmanager
def passing_lock(path: Path, timeout: float, *, mode: int = 0o600) -> Generator[None]:
    """Hold the lock of a file that is there only as long as somebody holds it.

    Whoever holds the lock removes the file before giving it up. Those who opened the file before and get the lock of
    one that is gone, or that is another's by now, see that and begin again. So of all who hold a lock of this name, one
    alone holds that of the file that has the name, and nobody else removes that. A killed holder leaves its file; the
    next one takes it over. Not to be nested for one name.

    Args:
        path: the file, in a folder that exists.
        timeout: seconds to wait for it.
        mode: permissions of the file.

    Raises:
        DeadlineError: others held it for too long.
    """
    deadline = time.monotonic() + timeout
    while True:
        handle = open_file(path, mode=mode)
        try:
            if not lock(handle, max(deadline - time.monotonic(), 0)):
                raise DeadlineError(
                    f"the lock {str(path)!r} was held by others for {timeout} s; a process that holds it is stopped, "
                    "or the disk hangs: let it go on or end it"
                )
            if not _names(path, handle):
                continue
            try:
                yield
            finally:
                with suppress(FileNotFoundError):  # somebody has cleaned up by hand
                    path.unlink()
            return
        finally:
            unlock(handle)  # a process that was forked meanwhile has it, too, and would keep out those who wait for it
            os.close(handle)


def _names(path: Path, handle: int) -> bool:
    """Whether a path is that of an open file."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    # While this descriptor is open its inode number goes to no other file.
    return os.path.samestat(there, os.fstat(handle))
