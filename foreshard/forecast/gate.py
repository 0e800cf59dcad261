"""The do-no-harm gate: forecasts pin chunks only where that has beaten caches that do not know the future.

Pinning by forecast alone loses up to 15 points of hit rate on drifting logs, and a hybrid that wins on hits may fetch
more than it saves (research/forecast.md §2c). So every policy is run over the newest windows, on metadata alone, each
window pinned by what was forecast before it began; the one with most hits is taken, if what it fetches beyond the best
reactive cache keeps within a budget. What was chosen before stays unless another is clearly better.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.access.trace import Trace
from foreshard.errors import ConfigError
from foreshard.forecast.judging import DEFAULT_RULES, Rules, capacity_of, judge, scored_from, worth
from foreshard.forecast.regime import Regime, detect_regime
from foreshard.simulate.caches import KEEP
from foreshard.simulate.shadow import NOTHING, Policy, Shadow, Tally

Expected = Callable[[int], NDArray[np.float64]]
"""What was expected of a window before it began: its number to float64 (C,), requests of every object."""

WARM_UP: Final = 5
"""Windows before those scored that fill the caches, at least."""

_FILLED: Final = 2
"""How many times a cache's bytes are requested before it counts as full: policies take their time to settle."""

EVIDENCE_SCHEMA: Final = pa.schema(
    [
        ("policy", pa.string()),
        ("pin_fraction", pa.float64()),
        ("window", pa.int32()),
        ("requests", pa.int64()),
        ("hits", pa.int64()),
        ("loads", pa.int64()),
        ("ahead", pa.int64()),
        ("request_bytes", pa.int64()),
        ("hit_bytes", pa.int64()),
        ("load_bytes", pa.int64()),
    ]
)
"""One row per (policy, scored window), see `foreshard.simulate.shadow.Tally`."""


@dataclass(frozen=True)
class PolicyChoice:
    """What a cache should do next, and why.

    Attributes:
        name: the policy, see `foreshard.simulate.shadow.Policy`.
        pin_fraction: share of the cache that is pinned; all of it where nothing is ever evicted.
        regime: what kind of access the log shows.
        evidence: rows of `EVIDENCE_SCHEMA`.
        reason: one or two sentences.
    """

    name: str
    pin_fraction: float
    regime: Regime
    evidence: pa.Table
    reason: str

    def summary(self) -> list[dict[str, str | float | bool]]:
        """Return one row per policy over all scored windows, most hits first."""
        totals = self.evidence.group_by("policy", use_threads=False).aggregate(
            [(name, "sum") for name in ("requests", "hits", "loads", "ahead")]
        )
        rows: list[dict[str, str | float | bool]] = []
        for row in totals.to_pylist():
            requests = max(int(row["requests_sum"]), 1)
            rows.append(
                {
                    "policy": str(row["policy"]),
                    "hit_rate": int(row["hits_sum"]) / requests,
                    "loads_per_request": int(row["loads_sum"]) / requests,
                    "ahead_per_request": int(row["ahead_sum"]) / requests,
                    "chosen": row["policy"] == self.name,
                }
            )
        return sorted(rows, key=lambda row: -float(row["hit_rate"]))


def choose_policy(
    trace: Trace,
    expected: Expected,
    cache: float,
    *,
    current: str | None = None,
    regime: Regime | None = None,
    rules: Rules = DEFAULT_RULES,
) -> PolicyChoice:
    """Choose what a cache should do in the windows after a trace.

    Args:
        trace: at least one window; the newest are replayed.
        expected: asked for the windows scored and the one before them, but not for window 0: nothing was known then.
        cache: share of the bytes of all objects that the cache holds, in (0, 1].
        current: the policy in use, which stays unless another is clearly better; None for none.
        regime: what kind of access it is, told from the trace if left out.
        rules: budget, margin, windows and policies.

    Raises:
        ConfigError: a cache that cannot be, an unknown `current`, or a forecast of the wrong shape.
        LogError: the trace holds no request.
    """
    regime = regime or detect_regime(trace)
    capacity = capacity_of(trace, cache)
    shadow = Shadow(trace, capacity, rules.policies)
    first = scored_from(trace.windows, rules)
    tallies: list[dict[str, Tally]] = []
    for window in range(warm_from(trace, first, capacity), trace.windows):
        # What is pinned before matters only to what is fetched when the first window that is scored begins.
        found = shadow.run(window, expected(window) if window and window >= first - 1 else None)
        if window >= first:
            tallies.append(found)
    name, reason = judge(tallies, current, rules, lambda: regime)
    pinned = 1.0 if name == KEEP else next(p.pin_fraction for p in rules.policies if p.name == name)
    return PolicyChoice(name, pinned, regime, _evidence(tallies, first, rules.policies), reason)


def warm_from(trace: Trace, first: int, capacity: int) -> int:
    """Return the window from which caches are filled before those that are scored.

    That is five windows before, or as many more as it takes to request twice the cache's bytes in different objects,
    if the trace has them: a cache that is not full yet misses what no full one would, whatever its policy.

    Args:
        trace: what is replayed.
        first: the first window that is scored.
        capacity: bytes of the cache.
    """
    seen = np.zeros(len(trace.nbytes), np.bool_)
    window = first
    while window > 0 and (window > first - WARM_UP or int(trace.nbytes[seen].sum()) < _FILLED * capacity):
        window -= 1
        seen[trace.window(window)] = True
    return window


def _evidence(tallies: Sequence[Mapping[str, Tally]], first: int, policies: Sequence[Policy]) -> pa.Table:
    rows = [
        {"policy": p.name, "pin_fraction": p.pin_fraction, "window": first + at, **vars(window[p.name])}
        for at, window in enumerate(tallies)
        for p in policies
    ]
    return pa.Table.from_pylist(rows, EVIDENCE_SCHEMA)


# -- replay --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Replay:
    """What choosing at the start of every window would have brought.

    Attributes:
        first: the first window that counts.
        choices: policy of each window from there on.
        chosen: what came of them; a change of policy pays for what the new one holds and the old one does not.
        tallies: what each policy alone would have brought, by name, per window.
        reactive: names of the policies without a forecast.
    """

    first: int
    choices: tuple[str, ...]
    chosen: tuple[Tally, ...]
    tallies: Mapping[str, tuple[Tally, ...]]
    reactive: tuple[str, ...]

    @property
    def total(self) -> Tally:
        """All windows that count."""
        return sum(self.chosen, NOTHING)

    def total_of(self, name: str) -> Tally:
        """Return what one policy alone would have brought."""
        return sum(self.tallies[name], NOTHING)

    @property
    def best_reactive(self) -> str:
        """The policy without a forecast that, in hindsight, had most hits."""
        return max(self.reactive, key=lambda name: worth(self.total_of(name)))

    @property
    def gain(self) -> float:
        """Hit rate above that of the best policy without a forecast, in hindsight; negative if below."""
        return self.total.hit_rate - self.total_of(self.best_reactive).hit_rate

    @property
    def switches(self) -> int:
        """How often the policy changed."""
        return sum(one != two for one, two in zip(self.choices[:-1], self.choices[1:], strict=True))


def replay_policy(
    trace: Trace,
    expected: Expected,
    cache: float,
    *,
    first: int,
    rules: Rules = DEFAULT_RULES,
) -> Replay:
    """Choose a policy at the start of every window from `first` on, by what went before, and count what it brings.

    Args:
        trace: what happens.
        expected: asked for every window but 0; must know nothing of that window and later ones.
        cache: see `choose_policy`.
        first: the first window that counts, at least 1.
        rules: how to choose.

    Raises:
        ConfigError: see `choose_policy`; or `first` is not a window of the trace after its first one.
    """
    if not 1 <= first < trace.windows:
        raise ConfigError(f"window {first} cannot be the first that counts; choose one of 1..{trace.windows - 1}")
    shadow = Shadow(trace, capacity_of(trace, cache), rules.policies)
    past: list[dict[str, Tally]] = []
    choices: list[str] = []
    chosen: list[Tally] = []
    current: str | None = None
    for window in range(trace.windows):
        moved = np.empty(0, np.int64)
        if window >= first:
            known = until(trace, window)
            judged = past[scored_from(window, rules) :]
            name, _ = judge(judged, current, rules, lambda known=known: detect_regime(known))
            if current is not None and name != current:
                moved = np.flatnonzero(shadow.holds(name) & ~shadow.holds(current))
            current = name
        past.append(shadow.run(window, expected(window) if window else None))
        if current is not None:
            choices.append(current)
            chosen.append(_with_moved(past[-1][current], trace.nbytes[moved]))
    tallies = {policy.name: tuple(each[policy.name] for each in past[first:]) for policy in rules.policies}
    reactive = tuple(policy.name for policy in rules.policies if policy.reactive)
    return Replay(first, tuple(choices), tuple(chosen), tallies, reactive)


def until(trace: Trace, window: int) -> Trace:
    """Return the first windows of a trace, without copying: what was known at that time."""
    end = int(trace.starts[window])
    return replace(trace, objects=trace.objects[:end], starts=trace.starts[: window + 1])


def _with_moved(tally: Tally, sizes: NDArray[np.int64]) -> Tally:
    return replace(
        tally,
        loads=tally.loads + len(sizes),
        ahead=tally.ahead + len(sizes),
        load_bytes=tally.load_bytes + int(sizes.sum()),
    )
