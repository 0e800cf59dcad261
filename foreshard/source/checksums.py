"""One XXH3-64 for every block of every source file: what each byte read from the source is verified against.

A block is a fixed run of bytes of one file; it has nothing to do with the blocks of samples.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from foreshard.errors import CorruptDataError

BLOCK_BYTES: Final = 1 << 20
"""Bytes of a block; the last one of a file is shorter. While a large row group is streamed, every column holds a block
of its own beside a page of about this size, so larger blocks would cost memory with the number of columns. The
checksums of 100 TB are 800 MB."""

_COLUMN: Final = "xxh3_64"


def block_count(size: int) -> int:
    """Return the number of blocks of a file of `size` bytes."""
    return -(-size // BLOCK_BYTES)


def block_sums(raw: memoryview) -> NDArray[np.uint64]:
    """Return the checksum of each block of bytes that start at a block's start."""
    starts = range(0, len(raw), BLOCK_BYTES)
    return np.array([xxhash.xxh3_64_intdigest(raw[at : at + BLOCK_BYTES]) for at in starts], np.uint64)


class BlockChecksums:
    """Checksums of the blocks of a snapshot's files, all files one after another; read when they are first needed.

    Args:
        load: returns them, uint64 of shape (count,).
        count: their number.
        sha256: SHA-256 of their little-endian bytes.
    """

    def __init__(self, load: Callable[[], NDArray[np.uint64]], count: int, sha256: str) -> None:
        self.count = count
        self.sha256 = sha256
        self._load = load

    @classmethod
    def of(cls, parts: Sequence[NDArray[np.uint64]]) -> "BlockChecksums":
        """Return the checksums of files, given those of each file."""
        sums = np.concatenate([np.empty(0, np.uint64), *parts])
        return cls(lambda: sums, len(sums), _sha256(sums))

    @classmethod
    def recorded(cls, record: Mapping[str, Any], load: Callable[[], NDArray[np.uint64]]) -> "BlockChecksums":
        """Return the checksums that were saved with a snapshot.

        Args:
            record: what `record` gave then.
            load: returns them, decoded by `decoder(record)`; called when they are first used.
        """
        return cls(load, int(record["count"]), str(record["sha256"]))

    @staticmethod
    def decoder(record: Mapping[str, Any]) -> Callable[[bytes], NDArray[np.uint64]]:
        """Return what decodes the bytes of `encode` and raises CorruptDataError where they do not match the record."""
        size, count, sha256 = int(record["block_bytes"]), int(record["count"]), str(record["sha256"])
        return lambda raw: _decode(raw, size, count, sha256)

    @cached_property
    def sums(self) -> NDArray[np.uint64]:
        """The checksums, shape (count,)."""
        return self._load()

    def record(self) -> dict[str, Any]:
        """Return what binds the checksums to their snapshot, as JSON values."""
        return {"block_bytes": BLOCK_BYTES, "count": self.count, "sha256": self.sha256}

    def encode(self) -> bytes:
        """Return the checksums as an Arrow IPC file of one uint64 column."""
        batch = pa.record_batch({_COLUMN: pa.array(self.sums)})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
        return sink.getvalue().to_pybytes()

    def __reduce__(self) -> tuple[Any, ...]:
        # A loader holds a store's client, which cannot travel to another process.
        return BlockChecksums.of, ([self.sums],)


def _decode(raw: bytes, size: int, count: int, sha256: str) -> NDArray[np.uint64]:
    if size != BLOCK_BYTES:
        raise CorruptDataError(f"its checksums are of blocks of {size} bytes, this version uses {BLOCK_BYTES}")
    try:
        column = pa.ipc.open_file(pa.BufferReader(raw)).get_batch(0).column(_COLUMN)
    except (pa.ArrowException, ValueError, KeyError, OSError) as error:
        raise CorruptDataError(f"it holds no block checksums ({error})") from error
    if column.type != pa.uint64() or column.null_count:
        raise CorruptDataError(f"its checksums are {column.type} with {column.null_count} nulls, not uint64 without")
    sums = np.asarray(column.to_numpy(zero_copy_only=True), np.uint64)
    if len(sums) != count or _sha256(sums) != sha256:
        raise CorruptDataError(f"its {len(sums)} block checksums are not the {count} that the snapshot records")
    return sums


def _sha256(sums: NDArray[np.uint64]) -> str:
    return hashlib.sha256(np.ascontiguousarray(sums, "<u8").data).hexdigest()
