"""How chunks become requests to the store: how many at a time, and which of them together."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.prefetch.concurrency import START, Concurrency
from foreshard.prefetch.schedule import Touches

RUN_TOUCHES: Final = 64
"""Chunks that are needed within so many touches may come in one request."""


class Requests:
    """How chunks become requests to the store.

    Args:
        control: knows how many requests are in flight.
        following: int32 (C,), the chunk that begins where a chunk ends in its shard, -1 for none: such chunks are read
            in one request; None to read each by itself.
        most_bytes: most bytes of a request for several chunks.

    Attributes:
        run_bytes: the same, as far as there is room.
    """

    def __init__(self, control: Concurrency, following: NDArray[np.int32] | None, most_bytes: int) -> None:
        self.control, self.following = control, following
        self._most_bytes = self.run_bytes = most_bytes

    def room(self, touches: Touches, nbytes: NDArray[np.int64]) -> int:
        """Return the bytes that keep the fetches busy: those in flight twice over."""
        return int(2 * self.control.limit * self._mean_bytes(touches, nbytes, self._most_bytes))

    def bound(self, ahead: int, touches: Touches, nbytes: NDArray[np.int64]) -> None:
        """Make requests so few and so small that so many bytes are enough for them.

        As many as any store is asked for shall fit; of single chunks they are in flight even if they do not.
        """
        self.run_bytes = min(self._most_bytes, ahead // START)
        request = self._mean_bytes(touches, nbytes, self.run_bytes)
        self.control.bound = max(int(ahead / request), START) if request else START

    def _mean_bytes(self, touches: Touches, nbytes: NDArray[np.int64], most: int) -> float:
        """Return the bytes of a request, about; 0 if there is none."""
        if not len(touches.chunks):
            return 0.0
        request = float(nbytes[touches.chunks].mean())
        if self.following is not None:
            request = min(request * self._run_length(touches.chunks), max(most, request))
        return request

    def _run_length(self, chunks: NDArray[np.int32]) -> float:
        """Return how many chunks, about, come in one request."""
        assert self.following is not None
        touched, first = np.unique(chunks, return_index=True)
        after = self.following[touched]
        at = np.minimum(np.searchsorted(touched, after), len(touched) - 1)
        joined = (touched[at] == after) & (np.abs(first[at] - first) <= RUN_TOUCHES)
        return len(touched) / max(len(touched) - np.count_nonzero(joined), 1)
