"""What names a chunk's bytes, in the state and on disk: the same for equal chunks of different layouts."""

import re
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.shards.manifest import Manifest

KEY_BYTES: Final = 32

_SUFFIX: Final = ".chunk"
_FILE: Final = re.compile(r"[0-9a-f]{64}\.chunk")


def chunk_keys(manifest: Manifest, chunks: Sequence[int]) -> list[bytes]:
    """Return the keys of chunks: seed (16 bytes), checksum (8) and size (8) of each.

    The seed follows from the snapshot, the chunk's samples and what first arranged them, so a chunk that a later layout
    takes over keeps its key; the checksum tells apart what was encoded in different ways. A chunk that another
    plan makes anew has another seed, and its rows another order.

    Args:
        manifest: the open layout.
        chunks: their numbers.
    """
    index = np.asarray(chunks, np.int64)
    rows = np.empty((len(index), KEY_BYTES), np.uint8)
    rows[:, :16] = manifest.seeds[index]
    rows[:, 16:24] = _bytes_of(manifest.checksums[index].astype("<u8"))
    rows[:, 24:] = _bytes_of(manifest.nbytes[index].astype("<i8"))
    return [row.tobytes() for row in rows]


def _bytes_of(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(values).view(np.uint8).reshape(-1, 8)


def size_of(key: bytes) -> int:
    """Return the bytes of a chunk."""
    return int.from_bytes(key[24:], "little")


def file_of(key: bytes) -> str:
    """Return the name of a chunk's file."""
    return key.hex() + _SUFFIX


def key_of(name: str) -> bytes | None:
    """Return the key of a chunk's file; None if the name is not one that `file_of` gives."""
    return bytes.fromhex(name.removesuffix(_SUFFIX)) if _FILE.fullmatch(name) else None
