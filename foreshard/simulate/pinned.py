"""A cache of which a share is pinned by a forecast for a window at a time, and the rest left to a reactive cache."""

import numpy as np
from numpy.typing import NDArray

from foreshard.simulate.caches import Cache


class Pinned:
    """Objects that are fetched as a window starts and stay to its end, beside a cache for all others.

    Args:
        nbytes: int64 (C,), size of every object.
        capacity: bytes that may be pinned.
        rest: serves requests for what is not pinned; None if those are not kept.
    """

    def __init__(self, nbytes: NDArray[np.int64], capacity: int, rest: Cache | None) -> None:
        self._nbytes, self._capacity, self._rest = nbytes, capacity, rest
        self._pinned = np.zeros(len(nbytes), np.bool_)

    def pin(self, ranked: NDArray[np.int64]) -> NDArray[np.int64]:
        """Pin the best objects that fit together and return those that must be fetched for it.

        What was pinned before and is not any more leaves memory; what the rest of the cache holds moves over.

        Args:
            ranked: objects that are expected to be wanted, the best first.
        """
        chosen = best_that_fit(ranked, self._nbytes, self._capacity)
        held = self.holds()
        self._pinned[:] = False
        self._pinned[chosen] = True
        if self._rest is not None:
            self._rest.remove(chosen.astype(np.int32))
        return chosen[~held[chosen]]

    def touch(self, objects: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Serve requests in order and return which of them were hits."""
        hit = self._pinned[objects]
        if self._rest is not None:
            others = np.flatnonzero(~hit)
            hit[others] = self._rest.touch(objects[others])
        return hit

    def holds(self) -> NDArray[np.bool_]:
        """Return which objects are held, bool (C,)."""
        return self._pinned | self._rest.holds() if self._rest is not None else self._pinned.copy()


def best_that_fit(ranked: NDArray[np.int64], nbytes: NDArray[np.int64], capacity: int) -> NDArray[np.int64]:
    """Return the best objects, as many as fit together.

    Args:
        ranked: objects, the best first.
        nbytes: int64 (C,), size of every object.
        capacity: bytes.
    """
    return ranked[: int(np.searchsorted(np.cumsum(nbytes[ranked]), capacity, side="right"))]
