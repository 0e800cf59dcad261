"""Adapting the prefetcher from what it measured: concurrency and depth by ready rate, forecast share by accuracy."""

from dataclasses import dataclass, replace
from typing import Final

from foreshard.prefetch.monitor import EpochStats

_READY: Final = 0.95
_CALM: Final = 0.995
_ACCURATE: Final = 0.5
_GAIN: Final = 0.9
_DEEPER: Final = 1.5
_DEPTHS: Final = (0.05, 0.25)


@dataclass(frozen=True)
class Tuning:
    """What the loader may change while it runs; nothing here affects the order of samples.

    Attributes:
        lookahead: share of the memory region for chunks fetched ahead of their first use; the rest is the cache.
        concurrency: fetches in flight at a time.
        forecast: share of the memory region that the prefetch manifest may fill before the order is known.
        waited: seconds waited per touch in the last epoch.
        trial: whether the lookahead was raised for the last epoch, on trial.
        settled: whether a deeper lookahead was tried and did not help.
    """

    lookahead: float = 0.1
    concurrency: int = 2
    forecast: float = 1.0
    waited: float = 0.0
    trial: bool = False
    settled: bool = False


def adjust(tuning: Tuning, stats: EpochStats, *, max_concurrency: int) -> Tuning:
    """Return the settings for the next epoch.

    Batches that were late ask for more concurrency first (doubled), then for a deeper lookahead, which costs cache and
    is therefore kept only if the next epoch waited less. A calm epoch gives a fetch back. Between the two thresholds
    nothing changes, so the settings do not swing. A forecast whose prefetches were mostly not used loses half its
    share, a good one regains a quarter.

    Args:
        tuning: settings of the epoch.
        stats: what the epoch achieved.
        max_concurrency: upper bound of fetches in flight.
    """
    waited = stats.wait_s / stats.touches if stats.touches else 0.0
    changed = replace(tuning, waited=waited, trial=False)
    if tuning.trial and waited > _GAIN * tuning.waited:
        changed = replace(changed, lookahead=max(tuning.lookahead / _DEEPER, _DEPTHS[0]), settled=True)
    elif stats.ready_rate < _READY and tuning.concurrency < max_concurrency:
        changed = replace(changed, concurrency=min(tuning.concurrency * 2, max_concurrency))
    elif stats.ready_rate < _READY and not tuning.settled and tuning.lookahead < _DEPTHS[1]:
        changed = replace(changed, lookahead=min(tuning.lookahead * _DEEPER, _DEPTHS[1]), trial=True)
    elif stats.ready_rate > _CALM:
        changed = replace(changed, concurrency=max(tuning.concurrency - 1, 1), settled=False)
    if stats.forecast_bytes:
        accurate = stats.forecast_used_bytes / stats.forecast_bytes >= _ACCURATE
        share = min(tuning.forecast + 0.25, 1.0) if accurate else tuning.forecast / 2
        changed = replace(changed, forecast=share)
    return changed
