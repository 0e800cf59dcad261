"""Adapting the prefetcher from epoch to epoch: depth by what the loop waited for, the forecast's share by its accuracy.

Fetches in flight are adapted within the epoch, see `foreshard.prefetch.concurrency`.
"""

from dataclasses import dataclass, replace
from typing import Final

from foreshard.prefetch.monitor import EpochStats

_LATE: Final = 0.02
_CALM: Final = 0.002
_ACCURATE: Final = 0.5
_TRUSTED: Final = 0.5
_GAIN: Final = 0.9
_DEEPER: Final = 2.0
_DEEPEST: Final = 16.0


@dataclass(frozen=True)
class Tuning:
    """What the loader may change while it runs; nothing here affects the order of samples.

    Attributes:
        depth: factor on the room for chunks fetched ahead of their first use; the rest of the memory is the cache.
        forecast: share of the memory region that the prefetch manifest may fill before the order is known.
        waited: seconds that the loop waited for chunks, per touch, in the last epoch; None if there was none.
        trial: whether the depth was raised for the last epoch, on trial.
        settled: whether more depth was tried and did not help.
    """

    depth: float = 1.0
    forecast: float = 1.0
    waited: float | None = None
    trial: bool = False
    settled: bool = False

    @property
    def trusts_forecast(self) -> bool:
        """Whether the forecast decides what stays beyond the known order; what is in memory stays where it does not.

        Pinning what is there cannot be worse than its share of the data, while a forecast that is wrong can.
        """
        return self.forecast >= _TRUSTED


def adjust(tuning: Tuning, stats: EpochStats) -> Tuning:
    """Return the settings for the next epoch.

    A loop that waited for chunks for more than 2 % of its time asks for more depth, which costs cache and is therefore
    kept only if the next epoch waited less; a calm epoch lets it be tried again. Between the two thresholds nothing
    changes, so the settings do not swing. The first epoch, which begins with an empty memory, is only looked at.
    A forecast whose prefetches were mostly not used loses half its share, a good one regains a quarter.

    Args:
        tuning: settings of the epoch.
        stats: what the epoch achieved.
    """
    waited = stats.wait_fetch_s / stats.touches if stats.touches else 0.0
    share = stats.wait_fetch_s / stats.total_s if stats.total_s else 0.0
    changed = replace(tuning, waited=waited, trial=False)
    if tuning.waited is None:
        pass
    elif tuning.trial and waited > _GAIN * tuning.waited:
        changed = replace(changed, depth=max(tuning.depth / _DEEPER, 1.0), settled=True)
    elif share > _LATE and not tuning.settled and tuning.depth < _DEEPEST:
        changed = replace(changed, depth=min(tuning.depth * _DEEPER, _DEEPEST), trial=True)
    elif share < _CALM:
        changed = replace(changed, settled=False)
    if stats.forecast_bytes:
        accurate = stats.forecast_used_bytes / stats.forecast_bytes >= _ACCURATE
        share = min(tuning.forecast + 0.25, 1.0) if accurate else tuning.forecast / 2
        changed = replace(changed, forecast=share)
    return changed
