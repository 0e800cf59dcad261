"""A log as a sequence of requests: what importers make of any log, and what forecasts and caches are tried on.

A `History` holds counts and forgets the order within a window; a `Trace` keeps it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreshard.access.history import History
from foreshard.errors import LogError


@dataclass(frozen=True)
class Trace:
    """m requests for C objects (chunks, files, pages) in the order of their arrival, cut into T windows.

    Attributes:
        objects: int32 (m,), the object of every request, 0..C-1.
        names: object (C,), what the log calls each object: texts or integers.
        nbytes: int64 (C,), size of every object; 1 where the log does not tell.
        starts: int64 (T + 1,), first request of every window, and m.
        phases_per_epoch: windows of an epoch; 1 where the log knows no epochs, so that every window counts as one.
    """

    objects: NDArray[np.int32]
    names: NDArray[np.object_]
    nbytes: NDArray[np.int64]
    starts: NDArray[np.int64]
    phases_per_epoch: int

    def __post_init__(self) -> None:
        starts = self.starts
        if len(starts) < 1 or starts[0] != 0 or starts[-1] != len(self.objects) or (np.diff(starts) < 0).any():
            raise LogError(f"windows start at {starts[:5].tolist()}...: give ascending requests from 0 to the end")
        if len(self.names) != len(self.nbytes) or self.phases_per_epoch < 1:
            raise LogError(
                f"a trace of {len(self.names)} names, {len(self.nbytes)} sizes and {self.phases_per_epoch} phases per "
                "epoch cannot be; give every object a name and a size, and an epoch a phase"
            )

    @property
    def windows(self) -> int:
        """T, how many windows there are."""
        return len(self.starts) - 1

    def window(self, number: int) -> NDArray[np.int32]:
        """Return the requests of one window, int32, in order; a view."""
        return self.objects[self.starts[number] : self.starts[number + 1]]

    def history(self) -> History:
        """Return how often every object was requested in every window."""
        count, windows = len(self.names), self.windows
        counts = np.empty((windows, count))
        for number, row in enumerate(counts):  # by window: nothing is held beside the counts that is as large
            row[:] = np.bincount(self.window(number), minlength=count)
        each = np.arange(windows)
        return History(
            counts,
            (each // self.phases_per_epoch + 1).astype(np.int32),
            (each % self.phases_per_epoch).astype(np.int16),
            self.phases_per_epoch,
        )


def equal_starts(requests: int, windows: int) -> NDArray[np.int64]:
    """Return the starts of windows of equal numbers of requests, int64 (windows + 1,).

    Raises:
        LogError: there are fewer requests than windows.
    """
    if not 1 <= windows <= requests:
        raise LogError(f"{requests} requests do not make {windows} windows; ask for at most one window per request")
    return np.arange(windows + 1, dtype=np.int64) * requests // windows
