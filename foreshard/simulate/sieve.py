"""SIEVE: a queue in order of arrival, a bit for what was hit, and a hand that wanders from the oldest to the newest.

Zhang et al., "SIEVE is simpler than LRU" (NSDI 2024, algorithm 1).
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.simulate.caches import hits_of

_HELD, _VISITED = 1, 2


class Sieve:
    """See the module.

    The queue is a ring of links through one more place, which stands between the newest and the oldest object.

    Args:
        nbytes: int64 (C,), size of every object.
        capacity: bytes.
    """

    def __init__(self, nbytes: NDArray[np.int64], capacity: int) -> None:
        self._sizes: Final = nbytes.tolist()
        self._capacity, self._free = capacity, capacity
        self._end = end = len(nbytes)
        self._state = bytearray(end)
        self._newer, self._older = [end] * (end + 1), [end] * (end + 1)
        self._hand = end

    def touch(self, objects: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Serve requests, see `Cache`."""
        state, admit = self._state, self._admit
        missed: list[int] = []
        for at, one in enumerate(objects.tolist()):
            if state[one]:
                state[one] = _VISITED
            else:
                missed.append(at)
                admit(one)
        return hits_of(len(objects), missed)

    def _admit(self, one: int) -> None:
        size = self._sizes[one]
        if size > self._capacity:
            return
        while self._free < size:
            self._evict()
        end, newest = self._end, self._older[self._end]
        self._older[one], self._newer[one] = newest, end
        self._newer[newest] = self._older[end] = one
        self._state[one] = _HELD
        self._free -= size

    def _evict(self) -> None:
        state, newer, end = self._state, self._newer, self._end
        one = self._hand if self._hand != end else newer[end]
        while state[one] == _VISITED:
            state[one] = _HELD
            one = newer[one]
            if one == end:
                one = newer[end]
        self._hand = one
        self._drop(one)

    def _drop(self, one: int) -> None:
        """Take an object out of the queue; a hand that pointed at it moves on to the next newer one."""
        older, newer = self._older[one], self._newer[one]
        self._newer[older], self._older[newer] = newer, older
        if self._hand == one:
            self._hand = newer
        self._state[one] = 0
        self._free += self._sizes[one]

    def remove(self, objects: NDArray[np.int32]) -> None:
        """Free the room of objects, see `Cache`."""
        for one in objects.tolist():
            if self._state[one]:
                self._drop(one)

    def holds(self) -> NDArray[np.bool_]:
        """Return which objects are held, see `Cache`."""
        return np.frombuffer(self._state, np.uint8) > 0
