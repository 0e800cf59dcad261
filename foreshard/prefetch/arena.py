"""One contiguous piece of memory for chunks, so that a batch is gathered from many of them in a few array operations.

Not thread-safe: its owner holds a lock, and lets nobody move chunks while a batch is being gathered.
"""

import mmap
import sys
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

ASIDE: Final = 0
"""Slot of the chunk that lies aside, in the place for reads on demand."""

_ALIGN: Final = 8
_WIPE_ON_FORK: Final = 18  # MADV_WIPEONFORK, which the module does not name


@dataclass(frozen=True)
class Payload:
    """A chunk's bytes as they came, verified.

    Attributes:
        raw: the bytes.
        places: int64 (k,), where each Arrow buffer begins in them; negative for one that is left out or compressed.
        rows: rows in them where others take the chunk's place, for its row r that of r modulo `rows`; 0 for its own.
    """

    raw: memoryview
    places: NDArray[np.int64]
    rows: int = 0


class Place(NamedTuple):
    """Where a chunk is being read to: it is not moved until it is filled or given up.

    Attributes:
        slot: its slot.
        room: its bytes, to be written.
    """

    slot: int
    room: memoryview


class Arena:
    """Chunks in slots, each a run of consecutive bytes; the last bytes are for one chunk read on demand.

    Memory is taken from the system when the first chunk comes, page by page, and given back by `clear`.

    Args:
        capacity: bytes for resident chunks.
        aside: bytes for the chunk that lies aside.
        buffers: places of a payload, k.
        alignment: chunks begin at multiples of it, and their sizes are counted as such.

    Attributes:
        places: int64 (s, k), where the buffers of each slot's chunk begin; negative as in `Payload`.
        starts: int64 (s,), where each slot's chunk begins.
        sizes: int64 (s,), its bytes; 0 for a free slot.
        rows: int64 (s,), `rows` as in `Payload`.
    """

    def __init__(self, capacity: int, aside: int, buffers: int, *, alignment: int = _ALIGN) -> None:
        self._align = alignment
        self._capacity, self._end = capacity, self._round(capacity) + self._round(aside)
        self._buffers = buffers
        self.clear()

    def clear(self) -> None:
        """Forget every chunk and give the memory back to the system."""
        self._memory: NDArray[np.uint8] | None = None
        self._views: dict[int, NDArray[Any]] = {}
        self.places = np.full((16, self._buffers), -1, np.int64)
        self.starts, self.sizes, self.rows = (np.zeros(16, np.int64) for _ in range(3))
        self.starts[ASIDE] = self._round(self._capacity)
        self._unused = list(range(15, ASIDE, -1))
        self._gaps: list[tuple[int, int]] = [(0, self._capacity)]  # (start, size), by start
        self._open: dict[int, Place] = {}

    def _round(self, nbytes: int) -> int:
        return -(-nbytes // self._align) * self._align

    @property
    def memory(self) -> NDArray[np.uint8]:
        """The bytes, shape (capacity + aside,)."""
        if self._memory is None:
            whole = max(-(-self._end // 64) * 64, 64)
            self._memory = np.frombuffer(_pages(whole), np.uint8)
        return self._memory

    @property
    def bytes(self) -> memoryview:
        """The same as bytes."""
        memory: Any = self.memory  # numpy's arrays are buffers; its stubs for Python 3.11 do not say so
        return memoryview(memory)

    def view(self, width: int) -> NDArray[Any]:
        """Return the memory as unsigned integers of 1, 2, 4 or 8 bytes."""
        if width not in self._views:
            self._views[width] = self.memory.view(f"u{width}")
        return self._views[width]

    def fits(self, nbytes: int) -> bool:
        """Return whether there is one gap for so many bytes."""
        need = self._round(nbytes)
        return any(size >= need for _, size in self._gaps)

    def put(self, payload: Payload) -> int:
        """Copy a chunk into the first gap it fits, and return its slot; `compact` before, where none does."""
        slot = self._take_gap(len(payload.raw))
        assert slot is not None, f"no gap for {len(payload.raw)} bytes in {self._gaps[:8]}"
        self._fill(slot, payload)
        return slot

    def open(self, nbytes: int) -> Place | None:
        """Return a place in the first gap that so many bytes fit, to read a chunk to; None if there is none."""
        slot = self._take_gap(nbytes)
        if slot is None:
            return None
        start = int(self.starts[slot])
        self._open[slot] = place = Place(slot, self.bytes[start : start + nbytes])
        return place

    def seal(self, place: Place, payload: Payload) -> int | None:
        """Keep the chunk that was read to a place, and return its slot; None if `clear` took the place meanwhile."""
        if self._open.get(place.slot) is not place:
            return None
        del self._open[place.slot]
        self._describe(place.slot, payload)
        return place.slot

    def discard(self, place: Place) -> None:
        """Give up a place, unless `clear` took it."""
        if self._open.get(place.slot) is place:
            del self._open[place.slot]
            self.free(place.slot)

    def put_aside(self, payload: Payload) -> int:
        """Copy a chunk to where one that was read on demand lies, in place of the last one, and return `ASIDE`."""
        self._fill(ASIDE, payload)
        return ASIDE

    def settle(self) -> int:
        """Copy the chunk that lies aside into the first gap it fits, and return its new slot."""
        start, size = int(self.starts[ASIDE]), int(self.sizes[ASIDE])
        places = self.places[ASIDE]
        raw = self.bytes[start : start + size]
        return self.put(Payload(raw, np.where(places < 0, places, places - start), int(self.rows[ASIDE])))

    def free(self, held: int) -> None:
        """Give a chunk's bytes back."""
        if held == ASIDE:
            return
        start, size = int(self.starts[held]), self._round(int(self.sizes[held]))
        self.sizes[held] = 0
        self._unused.append(held)
        at = bisect_left(self._gaps, (start, 0))
        if at < len(self._gaps) and self._gaps[at][0] == start + size:
            size += self._gaps.pop(at)[1]
        if at and sum(self._gaps[at - 1]) == start:
            at -= 1
            start, before = self._gaps.pop(at)
            size += before
        if size:
            self._gaps.insert(at, (start, size))

    def compact(self) -> None:
        """Move all chunks to the front, so that the gaps become one; those that are being read stay where they are."""
        used = np.flatnonzero(self.sizes)
        used = used[used != ASIDE]
        end, gaps = 0, list[tuple[int, int]]()
        for slot in used[np.argsort(self.starts[used])].tolist():
            start, size = int(self.starts[slot]), int(self.sizes[slot])
            if start != end and slot in self._open:
                gaps.append((end, start - end))
                end = start
            elif start != end:
                self.memory[end : end + size] = self.memory[start : start + size]
                self.places[slot] -= np.where(self.places[slot] < 0, 0, start - end)
                self.starts[slot] = end
            end += self._round(size)
        self._gaps = [*gaps, (end, self._capacity - end)] if end < self._capacity else gaps

    def chunk(self, slot: int) -> memoryview:
        """Return the bytes of a slot's chunk: a view that is good until the chunk is moved or freed."""
        start = int(self.starts[slot])
        return self.bytes[start : start + int(self.sizes[slot])]

    def _take_gap(self, nbytes: int) -> int | None:
        """Return a new slot at the start of the first gap that so many bytes fit."""
        need = self._round(nbytes)
        found = next((i for i, (_, size) in enumerate(self._gaps) if size >= need), None)
        if found is None:
            return None
        start, size = self._gaps[found]
        if size == need:
            del self._gaps[found]
        else:
            self._gaps[found] = (start + need, size - need)
        slot = self._slot()
        self.starts[slot], self.sizes[slot] = start, nbytes
        return slot

    def _slot(self) -> int:
        if not self._unused:
            count = len(self.sizes)
            self.places = np.concatenate([self.places, np.full_like(self.places, -1)])
            self.starts = np.concatenate([self.starts, np.zeros_like(self.starts)])
            self.sizes = np.concatenate([self.sizes, np.zeros_like(self.sizes)])
            self.rows = np.concatenate([self.rows, np.zeros_like(self.rows)])
            self._unused = list(range(2 * count - 1, count - 1, -1))
        return self._unused.pop()

    def _fill(self, slot: int, payload: Payload) -> None:
        start, size = int(self.starts[slot]), len(payload.raw)
        self.memory[start : start + size] = np.frombuffer(payload.raw, np.uint8)
        self._describe(slot, payload)

    def _describe(self, slot: int, payload: Payload) -> None:
        self.sizes[slot], self.rows[slot] = len(payload.raw), payload.rows
        start = self.starts[slot]
        self.places[slot] = np.where(payload.places < 0, payload.places, payload.places + start)


def _pages(nbytes: int) -> mmap.mmap:
    """Return new memory. A forked process gets it empty: it never reads its parent's, and copies would pile up there.

    Pages of 2 MiB were tried: a little quicker where the system has some, and half as slow where it must make them.
    """
    if not hasattr(mmap, "MAP_PRIVATE") or not sys.platform.startswith("linux"):
        return mmap.mmap(-1, nbytes)
    pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages.madvise(_WIPE_ON_FORK)
    return pages
