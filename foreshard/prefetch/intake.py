"""What a fetching thread takes from the queue: what fits the memory, and what comes in one request with it."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.prefetch.queue import PrefetchQueue, Request
from foreshard.prefetch.region import Region
from foreshard.prefetch.requests import RUN_TOUCHES, Requests

# What a fetch under way may stand for instead of the last touch that it is promised to.
NO_TOUCH: Final = -1
UNWANTED: Final = -2


class Intake:
    """Requests that wait, and those that were taken. Not thread-safe: its owner holds a lock.

    Args:
        region: the memory's ledger.
        nbytes: size of every chunk, shape (C,).
        requests: which chunks come together; None to read each chunk by itself.

    Attributes:
        queue: what waits.
        in_flight: by chunk that is being fetched, the last touch promised it, `NO_TOUCH` or `UNWANTED`.
        forecast_limit: bytes of the region that what only the forecast suggests may fill.
    """

    def __init__(self, region: Region, nbytes: NDArray[np.int64], requests: Requests | None) -> None:
        self._region, self._nbytes = region, nbytes
        self._requests = requests
        self.queue = PrefetchQueue()
        self.in_flight: dict[int, int] = {}
        self.forecast_limit = 0

    def take(self) -> list[Request]:
        """Take the most urgent request whose bytes fit, with what is read in one go with it; none if there is none."""
        first = self._first()
        return [] if first is None else [first, *self._rest_of_run(first)]

    def _first(self) -> Request | None:
        while (request := self.queue.peek()) is not None:
            chunk, rank = request.chunk, NO_TOUCH if request.forecast else request.rank
            entry = self._region.entries.get(chunk)
            if entry is not None:
                entry.needed_until = max(entry.needed_until, rank)
            elif chunk in self.in_flight:
                self.in_flight[chunk] = max(self.in_flight[chunk], rank)
            else:
                nbytes = int(self._nbytes[chunk])
                full = request.forecast and self._region.used + nbytes > self.forecast_limit
                if not full and not self._region.reserve(nbytes):
                    return None
                self.queue.withdraw(request)
                if full:
                    continue
                self.in_flight[chunk] = rank
                return request
            self.queue.withdraw(request)
        return None

    def _rest_of_run(self, first: Request) -> list[Request]:
        """Take requests for the chunks that follow in the shard, where they are wanted at about the same time."""
        if self._requests is None or self._requests.following is None:
            return []
        run: list[Request] = []
        following, most = self._requests.following, self._requests.run_bytes
        chunk, total = int(following[first.chunk]), int(self._nbytes[first.chunk])
        while chunk >= 0 and (request := self.queue.find(chunk)) is not None:
            nbytes = int(self._nbytes[chunk])
            near = request.forecast == first.forecast and request.rank - first.rank <= RUN_TOUCHES
            known = chunk in self.in_flight or chunk in self._region.entries
            full = request.forecast and self._region.used + nbytes > self.forecast_limit
            if not near or known or full or total + nbytes > most or not self._region.reserve(nbytes):
                break
            self.queue.withdraw(request)
            self.in_flight[chunk] = NO_TOUCH if request.forecast else request.rank
            run.append(request)
            total += nbytes
            chunk = int(following[chunk])
        return run
