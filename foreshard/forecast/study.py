"""All that can be said of a log that was imported: how it is read, what comes next, and what to keep in memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from foreshard.access.history import History
from foreshard.access.importers import Imported
from foreshard.errors import ConfigError
from foreshard.forecast.backtest import MIN_WINDOWS
from foreshard.forecast.ranking import ForecastResult, forecast_chunks
from foreshard.forecast.registry import DEFAULT_NAMES

MIN_REQUESTS: Final = 10
"""Fewer requests tell nothing."""

_MOST_COUNTS: Final = 500_000_000
"""Counts of (window, object) that are held, at 16 bytes each for a moment."""


@dataclass(frozen=True)
class Study:
    """A log and what was found out about it.

    Attributes:
        imported: the log's valid requests, and what was left out.
        history: how often every object was requested in every window.
        result: the forecast, with scores of all models.
        cache_fraction: share of the objects that fit into the cache.
    """

    imported: Imported
    history: History
    result: ForecastResult
    cache_fraction: float


def study_log(
    imported: Imported,
    *,
    cache_fraction: float,
    names: Sequence[str] = DEFAULT_NAMES,
    told: Callable[[str], None] = lambda _: None,
) -> Study:
    """Find out all that can be said of a log.

    Args:
        imported: the log.
        cache_fraction: share of the objects (of their bytes, for the policy) that fit into the cache, in (0, 1].
        names: forecasters to choose from.
        told: is called with what is done next.

    Raises:
        ConfigError: the log is too short, or has too many windows of too many objects; see `forecast_chunks` too.
    """
    trace = imported.trace
    if len(trace.objects) < MIN_REQUESTS:
        raise ConfigError(
            f"the log holds {len(trace.objects)} valid requests, and {MIN_REQUESTS} are the least to learn from; "
            "give a longer log"
        )
    if trace.windows < MIN_WINDOWS:
        raise ConfigError(
            f"the log makes {trace.windows} windows, and {MIN_WINDOWS} are the least to learn from and be tested on; "
            f"give a longer log, or cut it finer with --windows (24, say) or --phases"
        )
    if trace.windows * len(trace.names) > _MOST_COUNTS:
        raise ConfigError(
            f"{trace.windows:,} windows of {len(trace.names):,} objects are more than {_MOST_COUNTS:,} counts to hold; "
            f"ask for at most {max(MIN_WINDOWS, _MOST_COUNTS // len(trace.names)):,} --windows"
        )
    told("counting")
    history = trace.history()
    told("testing forecasters on windows held out")
    result = forecast_chunks(history, cache_fraction=cache_fraction, names=names)
    return Study(imported, history, result, cache_fraction)
