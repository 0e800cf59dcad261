"""Memory for large batches that is used again once nobody looks at the batch any more.

Memory from the system comes as pages that the kernel fills with zeros first, which costs about as much as filling them
with rows; a batch of images would pay for that every time.
"""

import weakref
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

LEAST: Final = 1 << 20
"""Bytes from which on memory is kept; the allocator keeps smaller pieces itself."""

_KEPT: Final = 4
_SLACK: Final = 8  # an eighth more than asked for, as the next batch is a little larger


class _Lent(np.ndarray[Any, Any]):
    """An array whose end is noticed; everything that looks at it, Arrow's buffers too, keeps it alive."""


class Recycler:
    """Hands out memory and takes it back when the last view of it is gone. Thread-safe.

    At most four pieces wait to be used again; what is handed out belongs to who has it.
    """

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []

    def take(self, nbytes: int) -> NDArray[np.uint8]:
        """Return memory with arbitrary content, uint8 (nbytes,)."""
        if nbytes < LEAST:
            return np.empty(nbytes, np.uint8)
        whole = self._fitting(nbytes)
        lent = whole[:nbytes].view(_Lent)
        weakref.finalize(lent, self._back, whole).atexit = False
        return lent

    def _fitting(self, nbytes: int) -> NDArray[np.uint8]:
        while self._free:
            try:
                whole = self._free.pop()
            except IndexError:  # another thread was quicker
                break
            if nbytes <= len(whole) <= 4 * nbytes:
                return whole
        return np.empty(nbytes + nbytes // _SLACK, np.uint8)

    def _back(self, whole: NDArray[np.uint8]) -> None:
        if len(self._free) < _KEPT:
            self._free.append(whole)
