"""How a cache policy is judged by what it did in the newest windows: hits first, within a budget of fetched bytes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from foreshard.access.trace import Trace
from foreshard.errors import ConfigError
from foreshard.forecast.regime import Regime
from foreshard.simulate.caches import KEEP
from foreshard.simulate.shadow import NOTHING, POLICIES, Policy, Tally

LOAD_BUDGET: Final = 0.1
"""Bytes that may be fetched beyond what the best reactive cache fetches, as a share of the bytes requested."""

MARGIN: Final = 0.002
"""Hit rate by which a policy must be better to replace the one in use, unless it is better in every window."""

SCORED_WINDOWS: Final = 3

_STANDARD_ERRORS: Final = 3.0


@dataclass(frozen=True)
class Rules:
    """How a policy is chosen.

    Attributes:
        budget: see `LOAD_BUDGET`.
        margin: see `MARGIN`.
        scored: how many of the newest windows decide.
        policies: what is compared; at least one of them reactive.
    """

    budget: float = LOAD_BUDGET
    margin: float = MARGIN
    scored: int = SCORED_WINDOWS
    policies: Sequence[Policy] = POLICIES

    def __post_init__(self) -> None:
        if not self.budget >= 0 or not self.margin >= 0 or self.scored < 1:
            raise ConfigError(
                f"a budget of {self.budget}, a margin of {self.margin} and {self.scored} scored windows cannot be; "
                "budget and margin are shares of at least 0, and one window is scored at least"
            )
        if not any(policy.reactive for policy in self.policies):
            raise ConfigError("no reactive policy is among those compared; add 'lru', the measure of the others")


DEFAULT_RULES: Final = Rules()


def whole_epochs(phases: int) -> Rules:
    """Return rules by which whole epochs decide: in a part of one, hits depend on which part a cache happens to hold.

    Args:
        phases: windows of an epoch.
    """
    return Rules(scored=-(-SCORED_WINDOWS // phases) * phases)


def capacity_of(trace: Trace, cache: float) -> int:
    """Return the bytes of a cache that holds a share of the bytes of all objects.

    Raises:
        ConfigError: the share is not in (0, 1].
    """
    if not 0 < cache <= 1:
        raise ConfigError(f"cache {cache} must be in (0, 1]: the share of all objects' bytes that the cache holds")
    # Rounded before it is cut: 0.07 * 100 is a little more than 7, others a little less.
    return int(round(cache * int(trace.nbytes.sum()), 6))


def scored_from(windows: int, rules: Rules) -> int:
    """Return the first of the windows that decide; not window 0, where every cache is empty, if there is another."""
    return max(windows - rules.scored, min(1, windows - 1))


def judge(
    tallies: Sequence[Mapping[str, Tally]],
    current: str | None,
    rules: Rules,
    regime: Callable[[], Regime],
) -> tuple[str, str]:
    """Choose by what policies did in the scored windows.

    Args:
        tallies: per window, by policy.
        current: the policy in use; None for none.
        rules: how to choose.
        regime: asked only where it can matter: where never evicting is among the best.

    Returns:
        The policy's name, and the reason.

    Raises:
        ConfigError: `current` is not among the policies.
    """
    totals = {policy.name: sum((window[policy.name] for window in tallies), NOTHING) for policy in rules.policies}
    if current is not None and current not in totals:
        raise ConfigError(f"the policy in use {current!r} is not one of {', '.join(totals)}; pass None, or add it")
    if _keeping_is_among_the_best(totals, rules.margin) and regime().kind == "uniform":
        return KEEP, (
            f"{regime().words} No policy hits clearly more often than one that never evicts "
            f"({totals[KEEP].hit_rate:.1%})."
        )
    # What never evicting brings depends on what it began with: elsewhere a replay that began lately tells nothing.
    if any(policy.reactive and policy.name != KEEP for policy in rules.policies):
        totals.pop(KEEP, None)
    reactive = max((p.name for p in rules.policies if p.reactive and p.name in totals), key=lambda n: worth(totals[n]))
    limit = totals[reactive].load_bytes + rules.budget * totals[reactive].request_bytes
    affordable = [name for name, total in totals.items() if total.load_bytes <= limit]
    best = max(affordable, key=lambda name: worth(totals[name]))
    gain = totals[best].hit_rate - totals[reactive].hit_rate
    figures = f"{totals[best].hit_rate:.1%} of requests hit, {totals[reactive].hit_rate:.1%} with {reactive}"
    if current is not None and current != best and current in affordable:
        ahead = totals[best].hit_rate - totals[current].hit_rate
        always = all(window[best].hits > window[current].hits for window in tallies)
        if ahead <= rules.margin and not always:
            return current, f"{current} stays: {best} is ahead by {ahead:.2%} only, and not in every window."
    if best == reactive:
        dear = max(totals, key=lambda name: worth(totals[name]))
        tried = f"no forecast has done better ({figures})"
        if dear != best:
            tried = f"{dear} would fetch more than the budget allows"
        return best, f"{best}: {tried}."
    extra = (totals[best].load_bytes - totals[reactive].load_bytes) / max(totals[best].request_bytes, 1)
    return best, f"{best}: {figures}, a gain of {gain:.2%} for {extra:+.2%} of the bytes requested."


def _keeping_is_among_the_best(totals: Mapping[str, Tally], margin: float) -> bool:
    """Whether no policy hits clearly more often than one that never evicts: by more than chance alone brings about.

    Three standard errors of a difference of two independent rates; policies that serve the same requests differ less.
    """
    if KEEP not in totals:
        return False
    kept = totals[KEEP]
    best = max(total.hit_rate for total in totals.values())
    error = (2 * best * (1 - best) / max(kept.requests, 1)) ** 0.5
    return kept.hit_rate >= best - max(margin, _STANDARD_ERRORS * error)


def worth(total: Tally) -> tuple[int, int]:
    """Hits first; of equals, what fetches less; of equals, the one listed first."""
    return total.hits, -total.load_bytes
