"""What a source file's content is: its digest and the checksums of its blocks, read over a link that may flip bits."""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from foreshard.errors import SourceError
from foreshard.source.checksums import block_sums
from foreshard.source.fetching import ATTEMPTS, REQUEST_BYTES, fetch, pause
from foreshard.storage import ObjectMeta, ObjectStore

_MD5: Final = re.compile(r'"?([0-9a-f]{32})"?')


@dataclass(frozen=True)
class ContentDigest:
    """A file's content.

    Attributes:
        sha256: first 32 hex digits of the SHA-256.
        sums: XXH3-64 of each block.
    """

    sha256: str
    sums: NDArray[np.uint64]


def digest_content(store: ObjectStore, meta: ObjectMeta) -> ContentDigest:
    """Read a file and return what it holds, in bounded memory.

    Nothing is known yet to verify the bytes against, and what is recorded here is believed from then on. So bytes from
    a remote store must match the MD5 that most S3 servers give as tag of an object; where the tag is no MD5 of the
    content (multipart uploads, encrypted objects), every range is read until two answers agree.

    Raises:
        SourceError: the file is gone or cannot be read, or no two answers agree.
    """
    stated = _MD5.fullmatch(meta.e_tag)
    if store.local or stated:
        md5 = hashlib.md5(usedforsecurity=False)
        found = _digest(
            meta.size, lambda start, end: fetch(store, meta.key, start, end), None if store.local else md5.update
        )
        if store.local or (stated and md5.hexdigest() == stated[1]):
            return found
    return _digest(meta.size, lambda start, end: _agreed(store, meta.key, start, end))


def _digest(
    size: int, read: Callable[[int, int], memoryview], also: Callable[[memoryview], object] | None = None
) -> ContentDigest:
    """Return the digest of what `read` gives; `also` is called with every piece."""
    sha256 = hashlib.sha256()
    sums: list[NDArray[np.uint64]] = [np.empty(0, np.uint64)]
    for start, end in _pieces(size):
        raw = read(start, end)
        sha256.update(raw)
        if also is not None:
            also(raw)
        sums.append(block_sums(raw))
    return ContentDigest(sha256.hexdigest()[:32], np.concatenate(sums))


def _pieces(size: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + REQUEST_BYTES, size)) for start in range(0, size, REQUEST_BYTES))


def _agreed(store: ObjectStore, key: str, start: int, end: int) -> memoryview:
    """Return what two answers for a range agree on."""
    seen: set[bytes] = set()
    for attempt in range(ATTEMPTS + 1):
        pause(store, max(0, attempt - 1))  # the second answer is wanted in any case
        raw = fetch(store, key, start, end)
        digest = xxhash.xxh3_128_digest(raw)
        if digest in seen:
            return raw
        seen.add(digest)
    raise SourceError(
        f"bytes [{start}, {end}) of source file {key!r} in {store.url} were different in each of {len(seen)} answers; "
        "check the network and the store, and that nothing writes the file"
    )
