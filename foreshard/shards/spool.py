"""Files on local disk for rows that are brought into another order; what a killed process left goes with the next."""

import fcntl
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pyarrow as pa

_PREFIX: Final = "foreshard-spool-"
_LOCK: Final = "lock"
_BEING_MADE_S: Final = 60.0
_HELD: Final = 32 << 20
"""Bytes of dealt rows that wait in memory for being appended to their files."""


@contextmanager
def spool_folder(parent: Path) -> Generator[Path]:
    """Yield a new folder that goes with the block, or else with the next block of any process below `parent`.

    The kernel drops the lock on it when its process dies, however that happens.
    """
    _sweep(parent)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=parent) as name, (Path(name) / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(name)


def _sweep(parent: Path) -> None:
    """Remove the folders of processes that died."""
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            with (folder / _LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)  # another process may be faster
        except FileNotFoundError:  # being made right now, unless it is old
            if _age(folder) > _BEING_MADE_S:
                shutil.rmtree(folder, ignore_errors=True)
        except (BlockingIOError, PermissionError):  # in use, or of another user
            continue


def _age(folder: Path) -> float:
    try:
        return time.time() - folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0


class Spool:
    """Files that rows are appended to, in pieces that a disk takes well; none stays open, however many there are.

    A context; the files are whole once it has ended. A thread of its own writes while rows are dealt.

    Args:
        files: their paths.
        schema: of the rows.
    """

    def __init__(self, files: list[str], schema: pa.Schema) -> None:
        self._files, self._schema = files, schema
        self._waiting: dict[int, list[pa.Table]] = defaultdict(list)
        self._bytes = 0
        self._writer = ThreadPoolExecutor(1, "foreshard-spool")
        self._writing: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._writer:
            if kind is None:
                self._flush()
                self._written()

    def add(self, number: int, rows: pa.Table) -> None:
        """Append rows to a file, some time before the context ends."""
        self._waiting[number].append(rows)
        self._bytes += rows.nbytes
        if self._bytes > _HELD:
            self._flush()

    def _flush(self) -> None:
        self._written()
        self._writing = self._writer.submit(self._write, self._waiting)
        self._waiting, self._bytes = defaultdict(list), 0

    def _written(self) -> None:
        if self._writing is not None:
            self._writing.result()

    def _write(self, waiting: dict[int, list[pa.Table]]) -> None:
        for number, tables in waiting.items():
            with pa.OSFile(self._files[number], "ab") as raw, pa.ipc.new_stream(raw, self._schema) as stream:
                for table in tables:
                    stream.write_table(table)
