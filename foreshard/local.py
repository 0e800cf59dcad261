"""What obstore's local store lacks: quick ranged reads, and compare-and-swap under a lock that dies with its holder."""

import hashlib
import os
import re
import secrets
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote

from obstore.exceptions import AlreadyExistsError

from foreshard.errors import ConfigError, UnreachableError
from foreshard.locking import passing_lock

LOCKS: Final = ".locks/"
"""Folder of lock files below the root; no object."""

_LOCK_FILES: Final = 256
_LOCK_S: Final = 60.0

# obstore escapes other characters in file names.
_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_./-]+")


def local_root(url: str, parts: SplitResult, *, must_exist: bool) -> Path:
    """Return the folder of a `file:///` URL, made if it is missing.

    Args:
        url: the URL.
        parts: its parts.
        must_exist: refuse a missing folder instead.

    Raises:
        ConfigError: it is no URL of a folder.
        UnreachableError: the folder is missing and must exist, or cannot be made.
    """
    if parts.netloc or not parts.path:
        raise ConfigError(f"store URL {url!r} is not usable: a file URL has three slashes, like file:///data")
    folder = Path(unquote(parts.path))
    if must_exist and not folder.is_dir():
        raise UnreachableError(f"there is no folder {str(folder)!r}; check the URL {url!r}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnreachableError(f"store folder {str(folder)!r} cannot be made: {error}") from error
    return folder


def is_plain(key: str) -> bool:
    """Whether an object's file has the name of its key, as obstore escapes other characters."""
    return _PLAIN_KEY.fullmatch(key) is not None and ".." not in key


def create_file(root: Path, key: str, data: bytes | memoryview) -> None:
    """Write an object's file unless there is one, atomically; obstore's own put takes several times as long.

    Like obstore, it first writes a file of the name and `#<number>`, which listings leave out and sweeps find.

    Raises:
        AlreadyExistsError: there is one.
    """
    path = root / key
    staging = path.with_name(f"{path.name}#{secrets.randbelow(10**18)}")
    try:
        handle = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(handle, "wb", buffering=0) as file:
            written, view = 0, memoryview(data)
            while written < len(view):
                written += file.write(view[written:])
        os.link(staging, path)
    except FileExistsError as error:
        raise AlreadyExistsError(str(path)) from error
    finally:
        staging.unlink()


def local_file(root: Path, key: str) -> Path | None:
    """Return the file of an object; None if there is none, or under a name that obstore escapes."""
    path = root / key
    return path if is_plain(key) and path.is_file() else None


@contextmanager
def open_plain(root: Path, key: str) -> Generator[int | None]:
    """Open an object's file to read; None for what is unusual: no such file, or a name that obstore escapes."""
    handle = None
    if is_plain(key):
        with suppress(OSError):
            handle = os.open(f"{root}/{key}", os.O_RDONLY)
    try:
        yield handle
    finally:
        if handle is not None:
            os.close(handle)


def read_range(root: Path, key: str, start: int, end: int) -> bytes | None:
    """Read a range of a file by one system call: some 10 µs against 70 µs through obstore's runtime.

    Whatever is unusual, as in `open_plain` or a file that is too short, is None, and left to obstore.
    """
    with open_plain(root, key) as handle:
        raw = b"" if handle is None else os.pread(handle, end - start, start)
    return raw if len(raw) == end - start else None


@contextmanager
def exclusive(root: Path, key: str) -> Generator[None]:
    """Hold an object's lock, which keeps out whoever wants to swap it, or one of few others; not to be nested.

    Keys such as those of leases are never used again, so their locks must not stay. Their files go with their holders
    (`passing_lock`), and objects share `_LOCK_FILES` names, so that killed holders cannot leave more than those.

    Raises:
        DeadlineError: others held it for too long.
    """
    folder = root / LOCKS
    folder.mkdir(exist_ok=True)
    name = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % _LOCK_FILES
    with passing_lock(folder / f"{name:03d}", _LOCK_S, mode=0o666):
        yield
