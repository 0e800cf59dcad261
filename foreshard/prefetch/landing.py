"""How fetched chunks come to lie in memory: read to their place at once where that can be, or copied there."""

import time
from collections.abc import Callable, Sequence
from threading import Condition, Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from foreshard.prefetch.region import Entry, Holder

Fetch = Callable[[Sequence[int]], Sequence[Any]]
"""Reads and verifies chunks that follow each other in a shard, in one request; called by several threads at a time."""

Direct = Callable[[Sequence[int], Sequence[memoryview]], Sequence[Any] | None]
"""The same, straight into memory of the chunks' sizes; None if that did not work, and `Fetch` is to do it."""


class InPlace(NamedTuple):
    """What was read to the place where it shall lie.

    Attributes:
        place: the holder's place.
        payload: what the fetch returned.
    """

    place: Any
    payload: Any


class Landing:
    """Fetches chunks and gives them places in the memory.

    Methods are called with the lock held, but for `fetch`. No chunk is moved while one is lent (`lent`), so a chunk
    that needs a gap may have to wait for that.

    Args:
        holder: the memory.
        nbytes: size of every chunk, shape (C,).
        fetch: reads chunks.
        direct: reads chunks to where they shall lie; None where nothing can.
        lock: the owner's.

    Attributes:
        lent: chunks that are lent.
        blocked: threads that wait for a place.
    """

    def __init__(
        self, holder: Holder, nbytes: NDArray[np.int64], fetch: Fetch, direct: Direct | None, lock: Lock
    ) -> None:
        self._holder, self._nbytes, self._fetch, self._direct, self._lock = holder, nbytes, fetch, direct, lock
        self._changed = Condition(lock)
        self.lent = self.blocked = 0

    def fetch(self, chunks: Sequence[int], *, reserved: bool) -> list[Entry]:
        """Fetch chunks; until `place`, an entry holds what was fetched instead of a handle.

        Args:
            chunks: the chunks.
            reserved: whether their bytes are reserved, so that they may be read to where they shall lie.
        """
        start = time.perf_counter()
        held: Sequence[Any] | None = self._read_in_place(chunks, self._direct) if reserved and self._direct else None
        held = held or self._fetch(chunks)
        spent = int((time.perf_counter() - start) * 1e6)
        return [Entry(one, int(self._nbytes[chunk]), spent) for chunk, one in zip(chunks, held, strict=True)]

    def _read_in_place(self, chunks: Sequence[int], direct: Direct) -> list[InPlace] | None:
        """Return None if there is no gap now, or reading did not work."""
        places: list[Any] = []
        payloads: Sequence[Any] | None = None
        try:
            with self._lock:
                for nbytes in self._nbytes[list(chunks)].tolist():
                    place = self._holder.open(nbytes) if self.make_room(nbytes) else None
                    if place is None:
                        return None
                    places.append(place)
            payloads = direct(chunks, [place.room for place in places])
        finally:
            if payloads is None and places:
                with self._lock:
                    for place in places:
                        self._discard(place)
        return None if payloads is None else [InPlace(*both) for both in zip(places, payloads, strict=True)]

    def place(self, entry: Entry) -> bool:
        """Turn what an entry holds into a handle, if it has a place by now; others are moved for it if none is lent."""
        if isinstance(entry.held, InPlace):
            place, payload = entry.held
            entry.held = self._holder.seal(place, payload)
            if entry.held is not None:
                self.changed()
                return True
            entry.held = payload
        if not self.make_room(entry.nbytes):
            return False
        entry.held = self._holder.put(entry.held)
        return True

    def make_room(self, nbytes: int) -> bool:
        """Return whether there is a gap for a chunk whose bytes are reserved; chunks are moved unless one is lent."""
        if not self._holder.fits(nbytes) and not self.lent:
            self._holder.compact()
        return self._holder.fits(nbytes)

    def wait(self, timeout: float) -> None:
        """Wait until there may be a place."""
        self.blocked += 1
        self._changed.wait(timeout)
        self.blocked -= 1

    def changed(self) -> None:
        """Let those look again who wait for a place: no chunk is lent any more, or one that could not be moved can."""
        if self.blocked:
            self._changed.notify_all()

    def give_up(self, entry: Entry) -> None:
        """Let go what an entry holds that has no handle yet."""
        if isinstance(entry.held, InPlace):
            self._discard(entry.held.place)

    def _discard(self, place: Any) -> None:  # noqa: ANN401 - the holder's
        self._holder.discard(place)
        self.changed()
