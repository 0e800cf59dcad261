"""Folders in TMPDIR that go with an object of this process, or with the next such folder if the process was killed.

A folder is locked (`flock`, which the kernel drops with the process) as long as its maker lives, so neither a reused
process id nor another container's makes a dead folder look alive, or a live one dead.
"""

import os
import shutil
import stat
import tempfile
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Final

from foreshard.locking import try_lock, unlock

_YOUNG_S: Final = 60.0
"""A folder is made before it is locked: one that was changed no longer ago is left alone."""


def scratch_folder(owner: object, purpose: str) -> Path:
    """Make a folder that goes with its owner, and remove those of killed processes.

    Args:
        owner: an object of this process.
        purpose: part of the folder's name.

    Raises:
        OSError: no folder can be made.
    """
    prefix = f"foreshard-loader-{purpose}-"
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    handle = _open(folder)
    try_lock(handle, shared=True)
    weakref.finalize(owner, _remove, folder, handle, os.getpid())
    with suppress(OSError):  # nothing that the owner waits for
        _sweep(folder.parent, prefix)
    return folder


def _sweep(parent: Path, prefix: str) -> None:
    for folder in parent.glob(f"{prefix}*"):
        with suppress(OSError):  # another process has just removed it, or it cannot be locked
            about = folder.lstat()
            old = time.time() - about.st_mtime > _YOUNG_S
            if old and stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid():
                _remove_dead(folder)


def _remove_dead(folder: Path) -> None:
    handle = _open(folder)
    try:
        if try_lock(handle):
            shutil.rmtree(folder, ignore_errors=True)
            unlock(handle)
    finally:
        os.close(handle)


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _remove(folder: Path, handle: int, pid: int) -> None:
    if os.getpid() == pid:  # not in a process that was forked from it
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)
