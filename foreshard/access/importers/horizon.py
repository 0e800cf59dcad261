"""Tells times in the future from times that are no dates at all."""

import time
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

FUTURE: Final = "time in the future"
NO_DATES: Final = "time in the future if numbers are dates; taken for times since another origin"

UNITS: Final = (1, 10**3, 10**6, 10**9)
"""Units that numbers are looked for in, by how many of them make a second."""

DAY_S: Final = 86_400
"""How far ahead of this machine's clock a log's clock may be."""

SINCE_2000_S: Final = 946_684_800
_RARE: Final = 100
"""What is no more than one in so many may be faults."""

_FEW: Final = 10
"""In a short log, so many may be."""


class Horizon:
    """Judges a log's times, batch by batch.

    Dates that are declared to be some are in the future where they are ahead of this machine's clock. Numbers are
    guessed to be dates if 99% of those of the first batch that are not in the future then lie behind the year 2000.
    Later times may refute the guess: a clock that counts from another origin passes through "now" as if nothing were
    there, while a fault is rare and stands apart. As a wrong guess must cost no record, times are only taken for
    faults while that is so; otherwise the guess is given up, and nothing is in the future any more.
    """

    def __init__(self) -> None:
        self._limit: int | None = None
        self._begun = False
        self._refuted = False
        self._low: int | None = None
        self._high = 0
        self._seen = 0
        self._ahead = 0

    def judge(
        self, times: NDArray[np.int64], valid: NDArray[np.bool_], units: Sequence[int] | None
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Judge one batch of n times.

        Args:
            times: shape (n,).
            valid: bool (n,), which of them are to be judged.
            units: units that the times may be in, as in `UNITS`; none if they cannot be dates; None for dates in
                microseconds.

        Returns:
            Two masks, bool (n,): times in the future, and times that would be if the log's times were dates.
        """
        none = np.zeros(len(times), bool)
        good = times[valid]
        if not self._begun and len(good):
            self._begun = True
            self._limit = _first_limit(good, units)
        if self._limit is None or not len(good):
            return none, none
        ahead = valid & (times > self._limit)
        if units is None:
            return ahead, none
        self._refuted = self._refuted or not self._plausible(good, self._limit)
        return (none, ahead) if self._refuted else (ahead, none)

    def _plausible(self, good: NDArray[np.int64], limit: int) -> bool:
        """Return whether times above the limit may be faults, and remember the batch."""
        late = good > limit
        count = int(late.sum())
        self._seen += len(good)
        self._ahead += count
        if count < len(good):
            dates = good if not count else good[~late]
            first = int(dates.min())
            self._low = first if self._low is None else min(self._low, first)
            self._high = max(self._high, int(dates.max()))
        if not count:
            return True
        few = self._ahead <= max(_FEW, self._seen // _RARE)
        span = 0 if self._low is None else self._high - self._low
        far = int(good[late].min()) - self._high > span
        return few and (far or not late[-1])  # a clock that only goes on does not come back


def _first_limit(times: NDArray[np.int64], units: Sequence[int] | None) -> int | None:
    """Return the latest time that is not in the future; None if times are no dates, or all of them are ahead."""
    now = int(time.time()) + DAY_S
    if not units and units is not None:
        return None
    if units is None:
        limit = now * 10**6
        return limit if (times <= limit).any() else None
    dates = [np.count_nonzero((times >= SINCE_2000_S * unit) & (times <= now * unit)) for unit in units]
    best = int(np.argmax(dates))
    earlier = np.count_nonzero(times < SINCE_2000_S * units[best])
    return now * units[best] if dates[best] and earlier * _RARE <= dates[best] else None
