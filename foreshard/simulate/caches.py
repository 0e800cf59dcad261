"""Caches that do not know the future, run on a trace's metadata: what each would have hit.

All count in bytes, take any object that fits them at all, and go on from one part of a trace to the next.
"""

from collections import OrderedDict
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

KEEP: Final = "keep"
"""Name of the policy that never evicts: all it holds is pinned, whatever came first."""


class Cache(Protocol):
    """A cache that is driven by requests."""

    def touch(self, objects: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Serve requests in order and return which of them were hits, bool of the same length."""
        ...

    def remove(self, objects: NDArray[np.int32]) -> None:
        """Free the room of objects, those that are not held included; what is remembered of them stays."""
        ...

    def holds(self) -> NDArray[np.bool_]:
        """Return which objects are held, bool (C,)."""
        ...


def hits_of(length: int, missed: list[int]) -> NDArray[np.bool_]:
    """Return a mask of hits, bool (length,), from the positions of the misses."""
    hit = np.ones(length, np.bool_)
    hit[missed] = False
    return hit


class Lru:
    """Evicts what was used least recently; with `renew` off, what came first (FIFO).

    Args:
        nbytes: int64 (C,), size of every object.
        capacity: bytes.
        renew: whether a hit makes an object the youngest.
    """

    def __init__(self, nbytes: NDArray[np.int64], capacity: int, *, renew: bool = True) -> None:
        self._sizes: Final = nbytes.tolist()
        self._capacity, self._free = capacity, capacity
        self._held: OrderedDict[int, None] = OrderedDict()
        self._renews = renew

    def touch(self, objects: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Serve requests, see `Cache`."""
        held, sizes, capacity, free, renews = self._held, self._sizes, self._capacity, self._free, self._renews
        renew, evict = held.move_to_end, held.popitem
        missed: list[int] = []
        for at, one in enumerate(objects.tolist()):
            if one in held:
                if renews:
                    renew(one)
                continue
            missed.append(at)
            size = sizes[one]
            if size <= capacity:
                while free < size:
                    free += sizes[evict(last=False)[0]]
                held[one] = None
                free -= size
        self._free = free
        return hits_of(len(objects), missed)

    def remove(self, objects: NDArray[np.int32]) -> None:
        """Free the room of objects, see `Cache`."""
        held = self._held
        for one in objects.tolist():
            if one in held:
                del held[one]
                self._free += self._sizes[one]

    def holds(self) -> NDArray[np.bool_]:
        """Return which objects are held, see `Cache`."""
        mask = np.zeros(len(self._sizes), np.bool_)
        mask[list(self._held)] = True
        return mask


class Keep:
    """Takes what comes while there is room, and never evicts.

    It is the MinIO cache of Mohan et al., "Analyzing and mitigating data stalls in DNN training" (PVLDB 14(5), 2021,
    section 4.1): on epochs that read every object once nothing does better, see `foreshard.simulate.belady`.

    Args:
        nbytes: int64 (C,), size of every object.
        capacity: bytes.
    """

    def __init__(self, nbytes: NDArray[np.int64], capacity: int) -> None:
        self._sizes: Final = nbytes
        self._free = capacity
        self._held = np.zeros(len(nbytes), np.bool_)

    def touch(self, objects: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Serve requests, see `Cache`."""
        before = self._held[objects]
        first = np.unique(objects[~before], return_index=True)[1]
        first = np.flatnonzero(~before)[first]
        admitted: list[int] = []  # where in `objects`
        for at in np.sort(first).tolist() if self._free > 0 else []:
            size = int(self._sizes[objects[at]])
            if size <= self._free:
                self._free -= size
                admitted.append(at)
                if not self._free:
                    break
        self._held[objects[admitted]] = True
        hit = self._held[objects]
        hit[admitted] = False
        return hit

    def remove(self, objects: NDArray[np.int32]) -> None:
        """Free the room of objects, see `Cache`."""
        mine = np.unique(objects[self._held[objects]])
        self._held[mine] = False
        self._free += int(self._sizes[mine].sum())

    def holds(self) -> NDArray[np.bool_]:
        """Return which objects are held, see `Cache`."""
        return self._held.copy()
