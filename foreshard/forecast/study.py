"""All that can be said of a log that was imported: how it is read, what comes next, and what to keep in memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from foreshard.access.history import History
from foreshard.access.importers import Example, Finding, Imported
from foreshard.access.trace import Trace
from foreshard.errors import ConfigError
from foreshard.forecast.backtest import MIN_WINDOWS
from foreshard.forecast.cut_short import CutShort, cut_short, without_newest_epoch
from foreshard.forecast.gate import PolicyChoice, choose_policy
from foreshard.forecast.hindsight import known_before
from foreshard.forecast.judging import capacity_of, scored_from, whole_epochs
from foreshard.forecast.ranking import ForecastResult, forecast_chunks
from foreshard.forecast.regime import Regime, detect_regime
from foreshard.simulate.belady import plan_residency

MIN_REQUESTS: Final = 10
"""Fewer requests tell nothing."""

_MOST_COUNTS: Final = 500_000_000
"""Counts of (window, object) that are held, at 8 bytes each; for a moment part of them are held twice, and some hundred
bytes an object beside them."""


@dataclass(frozen=True)
class Study:
    """A log and what was found out about it.

    Attributes:
        imported: the log's valid requests, and what was left out. A last epoch that seems cut short is still there,
            and a finding says so; nothing else here is made from it.
        history: how often every object was requested in every window.
        result: the forecast, with scores of all models; its note tells of an epoch that was left out.
        cache_fraction: share of the objects, and of their bytes, that fit into the cache.
        choice: what the cache should do, and what every policy would have done in the newest windows.
        best_possible: hit rate in these of Belady's MIN, which knows the future but fetches nothing ahead.
    """

    imported: Imported
    history: History
    result: ForecastResult
    cache_fraction: float
    choice: PolicyChoice
    best_possible: float

    @property
    def regime(self) -> Regime:
        """What kind of access the log shows."""
        return self.choice.regime


def study_log(
    imported: Imported,
    *,
    cache_fraction: float,
    names: Sequence[str] | None = None,
    told: Callable[[str], None] = lambda _: None,
) -> Study:
    """Find out all that can be said of a log.

    Args:
        imported: the log.
        cache_fraction: share of the objects, and of their bytes, that fit into the cache, in (0, 1].
        names: forecasters to choose from; those that suit the log if None.
        told: is called with what is done next.

    Raises:
        ConfigError: the log is too short, has too many windows of too many objects, or the cache holds none of these;
            see `forecast_chunks` too.
    """
    trace = imported.trace
    _check(trace, cache_fraction)
    told("counting requests")
    part = cut_short(trace)
    if part is not None:
        imported, trace = _with_finding(imported, part), without_newest_epoch(trace)
    history = trace.history()
    told("telling the kind of access")
    regime = detect_regime(trace, history=history)
    told("testing forecasters on windows held out")
    result = forecast_chunks(history, cache_fraction=cache_fraction, names=names)
    if part is not None:
        result = replace(result, note="; ".join(filter(None, [result.note, part.words])))
    told("trying cache policies")
    rules = whole_epochs(trace.phases_per_epoch)
    expected = known_before(history, result.chosen, scored_from(trace.windows, rules))
    choice = choose_policy(trace, expected, cache_fraction, regime=regime, rules=rules)
    return Study(imported, history, result, cache_fraction, choice, _best_possible(trace, choice, cache_fraction))


def _check(trace: Trace, cache_fraction: float) -> None:
    """Refuse a log that nothing can be learnt from.

    Raises:
        ConfigError: see `study_log`.
    """
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
    if capacity_of(trace, cache_fraction) < int(trace.nbytes.min()):
        raise ConfigError(
            f"a cache for {cache_fraction:g} of {int(trace.nbytes.sum()):,} bytes (1 an object where no size is told) "
            f"holds none of {len(trace.names):,} objects; ask for a larger --cache-fraction"
        )


def _with_finding(imported: Imported, part: CutShort) -> Imported:
    """Return the log with a finding that counts the requests of an epoch which was cut short."""
    said = Example("the log", f"epoch {part.epoch}", f"{part.requests:,} requests, {part.least:,} or more in others")
    finding = Finding("request of a last epoch cut short, not used", kept=True, count=part.requests, examples=(said,))
    report = imported.report
    return replace(imported, report=replace(report, findings=(*report.findings, finding)))


def _best_possible(trace: Trace, choice: PolicyChoice, cache_fraction: float) -> float:
    """Hit rate of MIN in the windows that the policies were scored on.

    Its cache begins with the best choice of all objects requested before: a bound for every cache that fetches nothing
    ahead, whatever it kept until then, if objects are of equal size.
    """
    begin = int(trace.starts[int(choice.evidence.column("window").to_numpy().min())])
    before = frozenset(np.unique(trace.objects[:begin]).tolist())
    capacity = capacity_of(trace, cache_fraction)
    hit = plan_residency(trace.objects[begin:], trace.nbytes, capacity, resident=before).hit
    return float(hit.mean()) if len(hit) else 0.0
