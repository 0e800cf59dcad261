"""Which forecaster to use: the default, unless another was clearly better on windows that none of them had seen.

Choosing between close models by three origins is noise: on drifting logs it cost more than it gained
(research/forecast.md §2c). So a model has to win by a margin, and against its own spread.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.forecast.trials import Scores

PREFERENCE: Final = ("ensemble", "ewma")
"""The default is the first of these that is there; otherwise the first model of all."""

CLEAR_GAIN: Final = 0.005
"""Half a percent: of all draws in hit mass; in Brier score, of that of the last value, or of 1 if it made no error."""


def choose_model(scores: Mapping[str, Sequence[Scores]]) -> str:
    """Choose by hit mass first, and by Brier score where hit masses are as good.

    A model takes the default's place if its hit mass is higher by more than half a percent of the draws and by more
    than one standard error of the difference; of several, the one with the highest. If there is none, it may do so by
    its Brier skill against the last value, by the same margins, as long as its hit mass is not lower. Where the last
    value made no error, there is no skill against it, and Brier scores themselves are compared.

    Args:
        scores: by model, in order of preference, of the same origins.
    """
    default = default_model(list(scores))
    ranks = {name: _gains(scores[default], found) for name, found in scores.items()}
    truths = {name: _truths(scores[default], scores[name]) for name in scores if ranks[name].mean() >= 0}
    return _clearest(ranks) or _clearest(truths) or default


def default_model(names: Sequence[str]) -> str:
    """Return the model that others have to beat, of at least one."""
    return next((name for name in PREFERENCE if name in names), names[0])


def regret(scores: Mapping[str, Sequence[Scores]], chosen: str) -> float:
    """Return by how much the best model's mean hit mass exceeds the chosen one's, in hindsight; at least 0."""
    means = {name: float(np.mean([s.hit_mass for s in found])) for name, found in scores.items()}
    return max(means.values()) - means[chosen]


def _gains(default: Sequence[Scores], found: Sequence[Scores]) -> NDArray[np.float64]:
    return np.array([a.hit_mass - b.hit_mass for a, b in zip(found, default, strict=True)])


def _truths(default: Sequence[Scores], found: Sequence[Scores]) -> NDArray[np.float64]:
    """By how much the Brier skill is higher, per origin; by how much the Brier score is lower where there is none."""
    return np.array([_truer(a, b) for a, b in zip(found, default, strict=True)])


def _truer(found: Scores, default: Scores) -> float:
    if found.brier_skill_vs_last is None or default.brier_skill_vs_last is None:
        return default.brier - found.brier
    return found.brier_skill_vs_last - default.brier_skill_vs_last


def _clearest(gains: Mapping[str, NDArray[np.float64]]) -> str | None:
    """Return whose mean gain is the largest among those that exceed both margins, the first of equals."""
    clear = {name: float(each.mean()) for name, each in gains.items() if each.mean() > max(CLEAR_GAIN, _noise(each))}
    return max(clear, key=lambda name: clear[name]) if clear else None


def _noise(gains: NDArray[np.float64]) -> float:
    """One standard error of the mean; 0 for a single origin, which shows none."""
    return float(gains.std(ddof=1)) / np.sqrt(len(gains)) if len(gains) > 1 else 0.0
