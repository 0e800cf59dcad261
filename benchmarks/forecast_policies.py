"""Hits of a cache that pins by forecast where that has paid, beside caches that know less and one that knows all."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.forecast_data import Case
from benchmarks.forecast_rolling import SHIPPED, Rolled, expected_of
from foreshard.access.trace import Trace
from foreshard.forecast.ewma import EwmaForecaster
from foreshard.forecast.gate import Replay, replay_policy
from foreshard.forecast.judging import capacity_of
from foreshard.simulate.belady import plan_residency

CACHES: Final = (0.05, 0.1)
"""Sizes of the cache: shares of all objects."""

MIN: Final = "MIN"
"""Belady's, which knows the whole trace."""

_EPOCH_CACHES: Final = (0.1, 0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Hits:
    """Hits in the windows that count.

    Attributes:
        rates: hit rate by policy: `SHIPPED`, which chooses at every window, each policy by itself, and `MIN`.
        loads: objects fetched for each request, by policy; `MIN` is not told.
        best_reactive: the policy without a forecast that had most hits in hindsight.
        gain: of `SHIPPED`, over that.
        switches: how often `SHIPPED` changed its policy.
        choices: the policies it took.
    """

    rates: dict[str, float]
    loads: dict[str, float]
    best_reactive: str
    gain: float
    switches: int
    choices: list[str]

    @property
    def fraction_of_min(self) -> float:
        """Hits of `SHIPPED` over those of `MIN`; 1 where neither hits anything."""
        return self.rates[SHIPPED] / self.rates[MIN] if self.rates[MIN] else 1.0


def replay(case: Case, rolled: Rolled, cache: float) -> Hits:
    """Choose a policy at the start of every window that counts, by what went before, and count hits.

    Caches are warm: all run from the first window on.

    Args:
        case: the log.
        rolled: what was expected of its windows.
        cache: share of all objects that fit.
    """
    history = case.trace.history()
    played = replay_policy(case.trace, lambda window: expected_of(history, rolled, window), cache, first=rolled.first)
    return _hits(case.trace, cache, played)


def replay_epochs(trace: Trace) -> dict[float, Hits]:
    """Replay a training loader's log from its second epoch on, at several cache sizes; windows are epochs."""
    history = trace.history()

    def expected(window: int) -> NDArray[np.float64]:
        return EwmaForecaster().fit(history.until(window)).predict(1).expected[0]

    return {cache: _hits(trace, cache, replay_policy(trace, expected, cache, first=1)) for cache in _EPOCH_CACHES}


def _hits(trace: Trace, cache: float, played: Replay) -> Hits:
    totals = {SHIPPED: played.total, **{name: played.total_of(name) for name in played.tallies}}
    requests = played.total.requests
    known = plan_residency(trace.objects, trace.nbytes, capacity_of(trace, cache)).hit[trace.starts[played.first] :]
    return Hits(
        {name: total.hit_rate for name, total in totals.items()} | {MIN: float(known.mean())},
        {name: total.loads / requests for name, total in totals.items()},
        played.best_reactive,
        played.gain,
        played.switches,
        list(played.choices),
    )
