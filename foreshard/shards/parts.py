"""The columnar parts of a layout: written once under the digest of their content, read verified and memory-mapped.

A part may be larger than memory should hold: one on a local folder is mapped as it lies, a large one from elsewhere
goes through an unlinked temporary file. Either way nothing is resident but the pages that are looked at.
"""

import hashlib
import mmap
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Protocol

import pyarrow as pa
import xxhash

from foreshard.errors import CorruptDataError
from foreshard.keys import DatasetKeys, LayoutRef
from foreshard.shards.header import PartRef
from foreshard.shards.reading import read_ranges
from foreshard.shards.refetch import refetch
from foreshard.storage import ObjectStore

_BLOCK: Final = 16 << 20
_IN_MEMORY: Final = 64 << 20
_FETCHES: Final = 4
_ALIGNMENT: Final = 8


def write_part(batch: pa.RecordBatch) -> pa.Buffer:
    """Return one record batch as an Arrow IPC file: the form of every columnar part of a layout."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def part_ref(kind: str, raw: pa.Buffer) -> PartRef:
    """Return the reference to a part. Its name holds its digest, so that a crashed attempt never blocks another."""
    digest = hashlib.sha256(raw).hexdigest()
    return PartRef(f"{kind}-{digest[:16]}.arrow", digest, xxhash.xxh3_128_hexdigest(raw), raw.size)


class Shelf(Protocol):
    """Keeps parts on this machine's disk, for all of its processes."""

    def load(self, part: PartRef, download: Callable[[int], None]) -> pa.Buffer | None:
        """Return a part, verified: the one that is kept, or what `download` writes to a file, given by its descriptor.

        None says to do without.
        """
        ...


def load_part(
    store: ObjectStore, keys: DatasetKeys, ref: LayoutRef, part: PartRef, shelf: Shelf | None = None
) -> pa.Buffer:
    """Return a part of a layout, verified.

    Args:
        store: where it is.
        keys: names of the dataset's objects.
        ref: the layout.
        part: the part.
        shelf: where to look first, unless the store is a local folder; None for nowhere.

    Raises:
        CorruptDataError: the part is missing or does not match its digest, however often it is read.
    """
    key = keys.layout(ref.generation, ref.plan_digest, part.name)
    download = _Download(store, key, ref, part)

    def read() -> pa.Buffer:
        path = store.local_path(key)
        if path is not None:
            buffer = map_part(path, part)
        else:
            buffer = None if shelf is None else shelf.load(part, download.into)
            buffer = buffer or download.fetch()
        if buffer is None:
            raise CorruptDataError(f"{key!r} does not match its digest; delete it and materialise plan {ref} again")
        return buffer

    return refetch(store, read)


def map_part(path: Path, part: PartRef) -> pa.Buffer | None:
    """Return a part that lies in a file, mapped; None if the file does not hold it.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size != part.size:
            return None
        return _verified(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), part)


def _verified(mapped: mmap.mmap, part: PartRef) -> pa.Buffer | None:
    """Return a mapping as a buffer if it has the part's digest, with none of its pages resident."""
    digest = xxhash.xxh3_128()
    for start in range(0, part.size, _BLOCK):
        length = min(_BLOCK, part.size - start)
        with memoryview(mapped) as view:
            digest.update(view[start : start + length])
        mapped.madvise(mmap.MADV_DONTNEED, start, length)
    return pa.py_buffer(mapped) if digest.hexdigest() == part.xxh3 else None


class _Download:
    """Reads a part from a store that is no local folder; arguments as those of `load_part`."""

    def __init__(self, store: ObjectStore, key: str, ref: LayoutRef, part: PartRef) -> None:
        self._store, self._key, self._part = store, key, part
        self._what = f"part {key!r} of layout {ref}"

    def fetch(self) -> pa.Buffer | None:
        """Return the part, in memory or mapped from a file without a name; None if it does not verify."""
        part = self._part
        if part.size <= _IN_MEMORY:
            raw = self._read(0, part.size)
            if xxhash.xxh3_128_hexdigest(raw) != part.xxh3:
                return None
            buffer = pa.py_buffer(raw)
            return buffer if buffer.address % _ALIGNMENT == 0 else pa.py_buffer(bytes(raw))
        with tempfile.TemporaryFile(prefix="foreshard-part-") as file:
            self.into(file.fileno())
            return _verified(mmap.mmap(file.fileno(), part.size, prot=mmap.PROT_READ), part)

    def into(self, handle: int) -> None:
        """Write the part to a file."""
        size = self._part.size

        def copy(start: int) -> None:
            view, at = self._read(start, min(start + _BLOCK, size)), start
            while view:  # a disk that is nearly full takes less
                count = os.pwrite(handle, view, at)
                view, at = view[count:], at + count

        if size <= _BLOCK:
            copy(0)
            return
        with ThreadPoolExecutor(_FETCHES, "foreshard-part") as pool:
            list(pool.map(copy, range(0, size, _BLOCK)))

    def _read(self, start: int, end: int) -> memoryview:
        return read_ranges(self._store, self._key, [(start, end)], size=self._part.size, what=self._what)[0]
