"""How good a predictor of consistency is: leave-one-family-out cross-validation, beside two simple baselines."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.consistency.inputs import FEATURES

TARGET: Final = "c_all"
_MIN_LEVEL: Final = 0.05
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TrialData:
    """A trials table as arrays.

    Attributes:
        inputs: (t, features) in the order of `FEATURES`.
        target: (t,) measured consistency.
        family: (t,) family codes.
        group: (t,) codes of (task, learner): what a choice of strategy is made within.
        strategy: (t,) strategy codes.
    """

    inputs: Floats
    target: Floats
    family: NDArray[np.int64]
    group: NDArray[np.int64]
    strategy: NDArray[np.int64]

    @classmethod
    def from_table(cls, trials: pa.Table) -> "TrialData":
        """Take the arrays out of a table of `TRIAL_SCHEMA`."""
        columns = {name: texts(trials, name) for name in ("task", "learner", "strategy")}
        return cls(
            inputs=np.stack([trials.column(name).to_numpy() for name in FEATURES], axis=1),
            target=trials.column(TARGET).to_numpy(),
            family=_codes([task.partition("/")[0] for task in columns["task"]]),
            group=_codes([f"{t}\0{m}" for t, m in zip(columns["task"], columns["learner"], strict=True)]),
            strategy=_codes(columns["strategy"]),
        )


def cross_validate(data: TrialData, fit: Callable[[Floats, Floats], Any]) -> tuple[Floats, dict[str, Any]]:
    """Predict every family from the others alone.

    Args:
        data: trials of at least two families.
        fit: (inputs, target) -> a model with `predict`.

    Returns:
        Residuals (t,), measured - predicted; and the figures of `_figures` for the predictor and three baselines: the
        mean of a strategy in the history, that mean scaled by the task's probe, and a straight line in the total
        variation of labels.
    """
    predicted, prior, scaled, line = (np.empty(len(data.target)) for _ in range(4))
    label_tv = data.inputs[:, FEATURES.index("label_tv")]
    level = probe_level(data.inputs)
    for family in np.unique(data.family):
        held, kept = data.family == family, data.family != family
        predicted[held] = np.asarray(fit(data.inputs[kept], data.target[kept]).predict(data.inputs[held]))
        prior[held] = _strategy_means(data.strategy[kept], data.target[kept], data.strategy[held])
        scaled[held] = level[held] * _strategy_means(
            data.strategy[kept], (data.target / level)[kept], data.strategy[held]
        )
        line[held] = _line(label_tv[kept], data.target[kept], label_tv[held])
    baselines = {
        "strategy_prior": _figures(data, prior),
        "strategy_prior_probed": _figures(data, scaled),
        "label_tv": _figures(data, line),
    }
    return data.target - predicted, {**_figures(data, np.clip(predicted, 0.0, 1.0)), "baselines": baselines}


def probe_level(inputs: Floats) -> Floats:
    """Return (t,) what random parts of each task agree on, from its probe; at least 0.05, so that one may divide."""
    return np.maximum(inputs[:, FEATURES.index("probe_iid")], _MIN_LEVEL)


def _figures(data: TrialData, predicted: Floats) -> dict[str, float]:
    """Error and order of predictions.

    mae; spearman over all trials; spearman_within: mean over (task, learner); regret: consistency lost by taking the
    strategy with the best prediction; regret_restricted: the same among the worse half of the strategies, as when
    data cannot be moved freely (among all, "always stratify" is nearly right without any prediction).
    """
    means = _strategy_means(data.strategy, data.target, np.unique(data.strategy))
    restricted = (means <= np.median(means))[data.strategy]
    groups = [data.group == group for group in np.unique(data.group)]
    return {
        "mae": float(np.abs(data.target - predicted).mean()),
        "spearman": spearman(data.target, predicted),
        "spearman_within": float(np.mean([spearman(data.target[rows], predicted[rows]) for rows in groups])),
        "regret": _regret(data, predicted, groups),
        "regret_restricted": _regret(data, predicted, [rows & restricted for rows in groups]),
    }


def _regret(data: TrialData, predicted: Floats, menus: list[NDArray[np.bool_]]) -> float:
    losses = [float(data.target[m].max() - data.target[m][predicted[m].argmax()]) for m in menus if m.any()]
    return float(np.mean(losses)) if losses else 0.0


def spearman(first: Floats, second: Floats) -> float:
    """Return Spearman's rank correlation with mean ranks for ties; 0 where one side is constant."""
    a, b = (_mean_ranks(values) for values in (first, second))
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0


def conformal_half_width(residuals: Floats, coverage: float) -> float:
    """Return the half-width that covers a share of the residuals, with split conformal's finite-sample correction.

    Trials of one family are not exchangeable with those of another, so the coverage holds on average over families
    like those of the history, not for each dataset.
    """
    ordered = np.sort(np.abs(residuals))
    rank = int(np.ceil((len(ordered) + 1) * coverage))
    return float(ordered[min(rank, len(ordered)) - 1])


def texts(table: pa.Table, name: str) -> list[str]:
    """Return a string column as a list."""
    return [str(value) for value in table.column(name).to_pylist()]


def _mean_ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def _strategy_means(known: NDArray[np.int64], target: Floats, wanted: NDArray[np.int64]) -> Floats:
    size = int(max(known.max(), wanted.max())) + 1
    counts = np.bincount(known, minlength=size)
    sums = np.bincount(known, weights=target, minlength=size)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), target.mean())
    return means[wanted]


def _line(x: Floats, y: Floats, queries: Floats) -> Floats:
    centred = x - x.mean()
    spread = float((centred**2).sum())
    slope = float((centred * y).sum()) / spread if spread > 0 else 0.0
    return y.mean() + slope * (queries - x.mean())


def _codes(values: list[str]) -> NDArray[np.int64]:
    return np.unique(np.array(values), return_inverse=True)[1].astype(np.int64)
