"""An epoch that a log ends in the middle of: its job was killed, or still ran when the log was taken.

A model takes such an epoch for a sudden loss of interest in everything, expects too little of the next one, and has its
probabilities calibrated by it. So nothing is made from it. foreshard's own logs mark where an epoch ends; in those of
others the number of requests has to tell.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from foreshard.access.trace import Trace
from foreshard.forecast.backtest import MIN_WINDOWS

_HALF: Final = 0.5
"""Of the fewest requests of other epochs, what an epoch has less than if it was cut short; of an epoch that lacks less
than half, nobody can tell."""

_OTHERS: Final = 2
"""Epochs that must agree on how long one is."""


@dataclass(frozen=True)
class CutShort:
    """The newest epoch, cut short.

    Attributes:
        epoch: its number, from 1.
        requests: how many it has.
        least: how many the shortest of the epochs has that it is compared with.
    """

    epoch: int
    requests: int
    least: int

    @property
    def words(self) -> str:
        """One sentence."""
        return (
            f"epoch {self.epoch}, the last one, has {self.requests:,} requests where others have {self.least:,} or "
            "more: it seems cut short, and the forecast is made from those before it"
        )


def cut_short(trace: Trace) -> CutShort | None:
    """Return the newest epoch if it was cut short: it lacks half an epoch, and more than what epochs differ by anyway.

    How long an epoch is, those before it say: all but the oldest, which a log may begin in the middle of. Where they
    differ, the newest has to fall below the shortest of them by a larger factor than that does below the longest, so
    that volumes which go up and down, or fall from epoch to epoch, are no epochs cut short. Windows of equal numbers of
    requests never are.

    Args:
        trace: any; one that ends after some of an epoch's windows says so by itself, and nothing is to be found out.
    """
    phases = trace.phases_per_epoch
    if trace.windows % phases or trace.windows - phases < MIN_WINDOWS:
        return None
    requests = np.diff(trace.starts[::phases])
    others = requests[1:-1] if len(requests) > _OTHERS + 1 else requests[:-1]
    if len(others) < _OTHERS or not others.min():
        return None
    least, most = int(others.min()), int(others.max())
    if requests[-1] >= least * min(_HALF, least / most):
        return None
    return CutShort(len(requests), int(requests[-1]), least)


def without_newest_epoch(trace: Trace) -> Trace:
    """Return the trace without its newest epoch's requests; objects keep their numbers."""
    windows = trace.windows - trace.phases_per_epoch
    end = int(trace.starts[windows])
    return replace(trace, objects=trace.objects[:end], starts=trace.starts[: windows + 1])
