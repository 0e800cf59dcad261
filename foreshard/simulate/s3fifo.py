"""S3-FIFO: a small queue sifts out what is wanted once, a main queue keeps the rest, a ghost queue remembers.

Yang et al., "FIFO queues are all you need for cache eviction" (SOSP 2023, algorithm 1), with the parameters of the
paper. While it fills for the first time, objects beyond the small queue's share go to the main queue: libCacheSim does
so, whose hits these are, one for one.
"""

from collections import OrderedDict
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.simulate.caches import hits_of

_SMALL_SHARE: Final = 0.1
_MOST_COUNTED: Final = 3
_PROMOTED_FROM: Final = 2
"""Hits in the small queue from which an object moves on to the main queue."""

_OUT, _SMALL, _MAIN = 0, 1, 2


class S3Fifo:
    """See the module.

    Args:
        nbytes: int64 (C,), size of every object.
        capacity: bytes.
    """

    def __init__(self, nbytes: NDArray[np.int64], capacity: int) -> None:
        self._sizes: Final = nbytes.tolist()
        self._capacity = capacity
        self._small_share = int(capacity * _SMALL_SHARE)
        self._main_share = capacity - self._small_share
        self._ghost_share = int(capacity * (1 - _SMALL_SHARE))
        self._place = bytearray(len(nbytes))
        self._hits = bytearray(len(nbytes))  # of objects that are held
        self._small: OrderedDict[int, None] = OrderedDict()
        self._main: OrderedDict[int, None] = OrderedDict()
        self._ghost: OrderedDict[int, None] = OrderedDict()
        self._in_small = self._in_main = self._in_ghost = 0  # bytes
        self._full = False  # whether it has ever evicted

    def touch(self, objects: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Serve requests, see `Cache`."""
        place, hits, admit = self._place, self._hits, self._admit
        missed: list[int] = []
        for at, one in enumerate(objects.tolist()):
            if place[one]:
                if hits[one] < _MOST_COUNTED:
                    hits[one] += 1
            else:
                missed.append(at)
                admit(one)
        return hits_of(len(objects), missed)

    def _admit(self, one: int) -> None:
        size = self._sizes[one]
        known = one in self._ghost
        if known:
            del self._ghost[one]
            self._in_ghost -= size
        if size > self._capacity:
            return
        while self._in_small + self._in_main + size > self._capacity:
            self._full = True
            if self._in_main > self._main_share or not self._small:
                self._evict_main()
            else:
                self._evict_small()
        self._hits[one] = 0
        if known or (not self._full and self._in_small >= self._small_share):
            self._place[one] = _MAIN
            self._main[one] = None
            self._in_main += size
        else:
            self._place[one] = _SMALL
            self._small[one] = None
            self._in_small += size

    def _evict_small(self) -> None:
        """Move objects that were wanted again to the main queue, up to one that was not; that one is evicted."""
        small, hits, sizes = self._small, self._hits, self._sizes
        while small:
            one = small.popitem(last=False)[0]
            size = sizes[one]
            self._in_small -= size
            if hits[one] < _PROMOTED_FROM:
                self._place[one] = _OUT
                self._remember(one, size)
                return
            self._place[one] = _MAIN
            hits[one] = 0
            self._main[one] = None
            self._in_main += size

    def _evict_main(self) -> None:
        """Give objects that were hit another round for each hit, up to one that was not; that one is evicted."""
        main, hits = self._main, self._hits
        while True:
            one = next(iter(main))
            if not hits[one]:
                del main[one]
                self._in_main -= self._sizes[one]
                self._place[one] = _OUT
                return
            hits[one] -= 1
            main.move_to_end(one)

    def _remember(self, one: int, size: int) -> None:
        ghost, limit = self._ghost, self._ghost_share
        if size > limit:
            return
        while self._in_ghost + size > limit:
            self._in_ghost -= self._sizes[ghost.popitem(last=False)[0]]
        ghost[one] = None
        self._in_ghost += size

    def remove(self, objects: NDArray[np.int32]) -> None:
        """Free the room of objects, see `Cache`."""
        for one in objects.tolist():
            place = self._place[one]
            if place == _SMALL:
                del self._small[one]
                self._in_small -= self._sizes[one]
            elif place == _MAIN:
                del self._main[one]
                self._in_main -= self._sizes[one]
            self._place[one] = _OUT

    def holds(self) -> NDArray[np.bool_]:
        """Return which objects are held, see `Cache`."""
        return np.frombuffer(self._place, np.uint8) > 0
