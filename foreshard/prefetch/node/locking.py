"""Locks by `flock`, which the kernel drops when the process that holds them ends, however it ends."""

import fcntl
import os
import time
from pathlib import Path
from typing import Final

_SHORTEST_S: Final = 0.0002
_LONGEST_S: Final = 0.01


def open_file(path: Path) -> int:
    """Open a file to be locked, made if missing, and return its descriptor; no program that is started inherits it."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


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
