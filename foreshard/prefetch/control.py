"""Adapting the prefetcher from what it measured: depth by ready rate, forecast share by its accuracy."""

from dataclasses import dataclass, replace
from typing import Final

from foreshard.prefetch.monitor import EpochStats

_READY: Final = 0.95
_CALM: Final = 0.995
_ACCURATE: Final = 0.5
_DEPTHS: Final = (0.125, 0.5)


@dataclass(frozen=True)
class Tuning:
    """What the loader may change while it runs; nothing here affects the order of samples.

    Attributes:
        lookahead: share of the memory region for chunks fetched ahead of their first use; the rest is the cache.
        concurrency: fetches in flight at a time.
        forecast: share of the memory region that the prefetch manifest may fill before the order is known.
    """

    lookahead: float = 0.25
    concurrency: int = 2
    forecast: float = 1.0


def adjust(tuning: Tuning, stats: EpochStats, *, max_concurrency: int) -> Tuning:
    """Return the settings for the next epoch.

    Batches that were not ready ask for more depth and concurrency (multiplicative), a calm epoch gives both back
    slowly (additive); between the two thresholds nothing changes, so the settings do not swing. A forecast whose
    prefetches were mostly not used loses half its share, a good one regains a quarter.

    Args:
        tuning: settings of the epoch.
        stats: what the epoch achieved.
        max_concurrency: upper bound of fetches in flight.
    """
    if stats.ready_rate < _READY:
        depth = min(tuning.lookahead * 1.25, _DEPTHS[1])
        tuning = replace(tuning, lookahead=depth, concurrency=min(tuning.concurrency * 2, max_concurrency))
    elif stats.ready_rate > _CALM:
        depth = max(tuning.lookahead - 0.05, _DEPTHS[0])
        tuning = replace(tuning, lookahead=depth, concurrency=max(tuning.concurrency - 1, 1))
    if stats.forecast_bytes:
        accurate = stats.forecast_used_bytes / stats.forecast_bytes >= _ACCURATE
        share = min(tuning.forecast + 0.25, 1.0) if accurate else tuning.forecast / 2
        tuning = replace(tuning, forecast=share)
    return tuning
