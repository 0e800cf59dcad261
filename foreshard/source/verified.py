"""A source file as a file object that gives verified bytes only."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.errors import SourceError
from foreshard.ranges import merge_ranges
from foreshard.source.checksums import BLOCK_BYTES, block_count, block_sums
from foreshard.source.fetching import ATTEMPTS, REQUEST_BYTES, fetch, pause
from foreshard.source.snapshot import SourceFile
from foreshard.storage import ObjectStore

CACHE_BYTES: Final = 64 << 20
"""Verified bytes that a file keeps while it is read here and there."""

_REQUESTS: Final = 4
_AHEAD_BYTES: Final = 16 << 20


class ContentError(SourceError):
    """A block of a source file keeps differing from its checksum."""


@dataclass(frozen=True)
class _Span:
    """Verified bytes [start, end) of the file."""

    start: int
    end: int
    raw: memoryview

    def cut(self, start: int, end: int) -> memoryview:
        return self.raw[start - self.start : end - self.start]


class VerifiedFile:
    """Reads a file by whole blocks, each verified; for `pyarrow.PythonFile`, which calls it from one thread at a time.

    A block that does not match its checksum is asked for again a few times, as the link may have flipped a bit.

    Args:
        store: holds the file.
        file: its key and size.
        sums: checksum of each of its blocks.
        state: the words for the snapshot in error messages.
    """

    def __init__(self, store: ObjectStore, file: SourceFile, sums: NDArray[np.uint64], state: str) -> None:
        self.closed = False
        self.where = f"source file {file.key!r} in {store.url}"
        self._store = store
        self._key = file.key
        self._size = file.size
        self._sums = sums
        self._state = state
        self._position = 0
        self._window = BLOCK_BYTES
        self._limit = CACHE_BYTES
        self._held: list[tuple[int, int]] = []
        self._spans: list[_Span] = []  # the least recently used first
        if len(sums) != block_count(file.size):
            raise SourceError(
                f"{state} has {len(sums)} block checksums for the {file.size} bytes of {self.where}; take it again"
            )

    # -- the file object -------------------------------------------------------------------------------
    def read(self, size: int = -1) -> memoryview:
        """Return up to `size` bytes (all if negative) from the position on, and move it.

        Raises:
            SourceError: a block keeps differing from its checksum, or cannot be read.
        """
        start = min(self._position, self._size)
        end = self._size if size < 0 else min(start + size, self._size)
        self._position = end
        return self._bytes(start, end)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move the position, as `io.IOBase.seek` does."""
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def close(self) -> None:
        """Drop what is kept."""
        self.closed = True
        self._spans.clear()

    # -- what to keep ----------------------------------------------------------------------------------
    def stream(self, cursors: int) -> None:
        """Get ready for reads at several places in turn that each move on through the file.

        Args:
            cursors: number of those places. Each gets its share of `CACHE_BYTES`, and two blocks at least.
        """
        share = CACHE_BYTES // (2 * cursors * BLOCK_BYTES) * BLOCK_BYTES
        self._window = max(BLOCK_BYTES, min(share, REQUEST_BYTES))
        self._limit = 2 * cursors * self._window

    def hold(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Get ready for reads of byte ranges: from a remote store they are fetched now, several requests at a time.

        They are kept until the next call; everything else is dropped.

        Raises:
            SourceError: a block keeps differing from its checksum, or cannot be read.
        """
        self._held = sorted(ranges)
        aligned = [
            (start - start % BLOCK_BYTES, min(block_count(end) * BLOCK_BYTES, self._size)) for start, end in self._held
        ]
        wanted = merge_ranges(aligned, gap=0)
        self._window = BLOCK_BYTES
        if self._store.local:  # system calls are cheap: reads follow as they come, without joining pieces of memory
            self._spans.clear()
        else:
            self._spans = [kept for span in self._spans for kept in _overlaps(span, wanted)]
            missing = _without(wanted, sorted((span.start, span.end) for span in self._spans))
            self._spans += self._requested([piece for span in missing for piece in _cut(*span)])
        self._limit = max(CACHE_BYTES, sum(end - start for start, end in wanted))

    def _requested(self, pieces: Sequence[tuple[int, int]]) -> list[_Span]:
        """Return what several requests at a time give: one connection does not fill a network."""
        if not pieces:
            return []
        with ThreadPoolExecutor(min(_REQUESTS, len(pieces)), "source") as pool:
            return list(pool.map(self._verified, *zip(*pieces, strict=True)))

    # -- verified bytes --------------------------------------------------------------------------------
    def intact(self) -> bool:
        """Read the whole file and return whether every block still matches its checksum.

        Raises:
            SourceError: the file cannot be read.
        """
        try:
            for start, end in _cut(0, self._size):
                self._verified(start, end)
        except ContentError:
            return False
        return True

    def _bytes(self, start: int, end: int) -> memoryview:
        if start >= end:
            return memoryview(b"")
        span = self._kept(start, end if self._store.local else start + 1) or self._read_on(start, end)
        if end <= span.end:
            return span.cut(start, end)
        joined = memoryview(bytearray(end - start))
        at = start
        while at < end:
            span = self._kept(at, at + 1) or self._read_on(at, end)
            stop = min(end, span.end)
            joined[at - start : stop - start] = span.cut(at, stop)
            at = stop
        return joined

    def _kept(self, start: int, end: int) -> _Span | None:
        """Return a span that holds bytes `[start, end)`, and note its use."""
        for number, span in enumerate(self._spans):
            if span.start <= start and end <= span.end:
                self._spans.append(self._spans.pop(number))
                return span
        return None

    def _read_on(self, at: int, end: int) -> _Span:
        """Read from the byte `at` on: up to `end`, and further where the next reads will be."""
        start = at - at % BLOCK_BYTES
        ahead = max(end, start + self._window)
        # A range that would not fit is left to a read of its own, which then need not be joined from two.
        for low, high in self._held[bisect_right(self._held, at, key=itemgetter(1)) :]:
            if low > ahead or high > max(end, start + _AHEAD_BYTES):
                break
            ahead = max(ahead, high)
        stop = min(block_count(ahead) * BLOCK_BYTES, self._size)
        if not self._store.local:
            stop = min([stop, start + REQUEST_BYTES, *(span.start for span in self._spans if span.start > at)])
        # Dropped before the read, so that it gets their memory: fresh pages cost more than the read itself.
        kept = stop - start + sum(span.end - span.start for span in self._spans)
        while kept > self._limit and self._spans:
            dropped = self._spans.pop(0)
            kept -= dropped.end - dropped.start
        span = self._verified(start, stop)
        self._spans.append(span)
        return span

    def _verified(self, start: int, end: int) -> _Span:
        """Return bytes `[start, end)`, whole blocks, verified."""
        raw = fetch(self._store, self._key, start, end)
        first = start // BLOCK_BYTES
        wrong = np.flatnonzero(block_sums(raw) != self._sums[first : first + block_count(end - start)])
        if not len(wrong):
            return _Span(start, end, raw)
        mended = memoryview(bytearray(raw))
        for block in wrong.tolist():
            low = block * BLOCK_BYTES
            mended[low : low + BLOCK_BYTES] = self._again(first + block)
        return _Span(start, end, mended)

    def _again(self, block: int) -> memoryview:
        """Ask for a block again that did not match its checksum."""
        start, end = block * BLOCK_BYTES, min((block + 1) * BLOCK_BYTES, self._size)
        for attempt in range(1, ATTEMPTS):
            pause(self._store, attempt)
            raw = fetch(self._store, self._key, start, end)
            if block_sums(raw)[0] == self._sums[block]:
                return raw
        raise ContentError(
            f"bytes [{start}, {end}) of {self.where} did not match their checksum in {self._state} at {ATTEMPTS} "
            "attempts: the file has other content now, or the way to it damages data; put the file back, or check the "
            "network and the disk. Sources are immutable: new data go into new files"
        )


def _cut(start: int, end: int) -> list[tuple[int, int]]:
    """Cut a range that starts at a block's start into requests."""
    return [(at, min(at + REQUEST_BYTES, end)) for at in range(start, end, REQUEST_BYTES)]


def _overlaps(span: _Span, wanted: Sequence[tuple[int, int]]) -> list[_Span]:
    """Return what a span holds of the wanted ranges, copied, as a view would keep the whole span's memory."""
    cuts = [(max(span.start, start), min(span.end, end)) for start, end in wanted]
    return [_Span(start, end, memoryview(bytes(span.cut(start, end)))) for start, end in cuts if start < end]


def _without(wanted: Sequence[tuple[int, int]], held: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the parts of the wanted ranges outside of the held ones, both ascending and without overlap."""
    missing: list[tuple[int, int]] = []
    for start, end in wanted:
        at = start
        for low, high in held:
            if high <= at or low >= end:
                continue
            if low > at:
                missing.append((at, low))
            at = high
        if at < end:
            missing.append((at, end))
    return missing
