"""The columnar parts of a layout: written once under the digest of their content, read verified and memory-mapped.

A part may be larger than memory should hold: one on a local folder is mapped as it lies, a large one from elsewhere
goes through an unlinked temporary file. Either way nothing is resident but the pages that are looked at.
"""

import hashlib
import mmap
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

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


def load_part(store: ObjectStore, keys: DatasetKeys, ref: LayoutRef, part: PartRef) -> pa.Buffer:
    """Return a part of a layout, verified.

    Raises:
        CorruptDataError: the part is missing or does not match its digest, however often it is read.
    """
    key = keys.layout(ref.generation, ref.plan_digest, part.name)

    def read() -> pa.Buffer:
        path = store.local_path(key)
        buffer = _map(path, part) if path is not None else _fetch(store, key, ref, part)
        if buffer is None:
            raise CorruptDataError(f"{key!r} does not match its digest; delete it and materialise plan {ref} again")
        return buffer

    return refetch(store, read)


def _map(path: Path, part: PartRef) -> pa.Buffer | None:
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


def _fetch(store: ObjectStore, key: str, ref: LayoutRef, part: PartRef) -> pa.Buffer | None:
    what = f"part {key!r} of layout {ref}"
    if part.size <= _IN_MEMORY:
        raw = read_ranges(store, key, [(0, part.size)], size=part.size, what=what)[0]
        if xxhash.xxh3_128_hexdigest(raw) != part.xxh3:
            return None
        buffer = pa.py_buffer(raw)
        return buffer if buffer.address % _ALIGNMENT == 0 else pa.py_buffer(bytes(raw))
    with tempfile.TemporaryFile(prefix="foreshard-part-") as file:

        def copy(start: int) -> None:
            end = min(start + _BLOCK, part.size)
            os.pwrite(file.fileno(), read_ranges(store, key, [(start, end)], size=part.size, what=what)[0], start)

        with ThreadPoolExecutor(_FETCHES, "foreshard-part") as pool:
            list(pool.map(copy, range(0, part.size, _BLOCK)))
        return _verified(mmap.mmap(file.fileno(), part.size, prot=mmap.PROT_READ), part)
