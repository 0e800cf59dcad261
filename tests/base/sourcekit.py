"""What the tests of the source share: files larger than a block, and a store whose answers are faulty."""

import os
from collections.abc import Iterator
from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from foreshard.errors import StorageError


def random_table(rows: int, row_bytes: int = 1000, seed: int = 0) -> pa.Table:
    """Return rows that do not compress, with their number."""
    raw = np.random.default_rng(seed).bytes(rows * row_bytes)
    offsets = pa.py_buffer(np.arange(rows + 1, dtype=np.int32) * np.int32(row_bytes))
    data = pa.Array.from_buffers(pa.binary(), rows, [None, offsets, pa.py_buffer(raw)])
    return pa.table({"id": pa.array(np.arange(rows)), "data": data})


def write(folder: Path, *tables: pa.Table, row_group: int = 1 << 20) -> Path:
    """Write each table as a file of its own."""
    folder.mkdir(exist_ok=True)
    for number, table in enumerate(tables):
        pq.write_table(table, folder / f"part-{number:02d}.parquet", row_group_size=row_group)
    return folder


def upload(folder: Path, store) -> None:
    for path in folder.rglob("*.parquet"):
        store.put(str(path.relative_to(folder)), path.read_bytes())


def damage(path: Path, position: int, bit: int = 0) -> None:
    """Flip a bit of a file so that its size and its tag in a listing stay what they were, as a bad disk would."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ (1 << bit)]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


class FaultyStore:
    """A real store of which every answer in turn may be faulty.

    Args:
        store: the store.
        faults: for each ranged read: None, "flip" (one bit of the answer), or "cut" (the error of a short answer).

    Attributes:
        reads: the ranges asked for, with their keys.
    """

    def __init__(self, store, faults: Iterator[str | None]) -> None:
        self._store = store
        self._faults = faults
        self._lock = Lock()
        self.reads: list[tuple[str, int, int]] = []

    def __getattr__(self, name):
        return getattr(self._store, name)

    def get_range(self, key, start, end):
        with self._lock:
            self.reads.append((key, start, end))
            number, fault = len(self.reads), next(self._faults)
        raw = self._store.get_range(key, start, end)
        if fault == "cut":
            raise StorageError(f"{key!r} gave {len(raw) // 2} bytes for the range [{start}, {end})")
        if fault == "flip":
            raw = bytearray(raw)
            raw[number * 7919 % len(raw)] ^= 1 << number % 8
        return memoryview(raw)
