"""The predictor: extremely randomised trees from (dataset, learner, partition) to measured consistency.

Geurts, Ernst and Wehenkel, "Extremely randomized trees" (Machine Learning, 2006). Fitting takes a fraction of a second,
so a predictor is never stored: it is refitted from its trials table, always to the same trees.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.consistency.inputs import FEATURES
from foreshard.consistency.sampling import learner_seed
from foreshard.consistency.trials import TRIAL_SCHEMA
from foreshard.consistency.validation import TARGET, TrialData, conformal_half_width, cross_validate, probe_level, texts
from foreshard.errors import ConfigError

COVERAGE: Final = 0.9
"""Share of trials on unseen datasets that the interval of a score is meant to cover."""

_TREES: Final = 150
_MIN_LEAF: Final = 2
_FEATURE_SHARE: Final = 0.4
_MIN_FAMILIES: Final = 2
_TOP_FEATURES: Final = 10
_RANGE_MARGIN: Final = 0.05


@dataclass(frozen=True)
class Score:
    """A predicted consistency.

    Attributes:
        score: in [0, 1], 1 being perfectly consistent.
        low: lower end of the 90 % interval.
        high: upper end.
        outside: inputs clearly beyond the range of the history; the more, the less the score is to be trusted.
    """

    score: float
    low: float
    high: float
    outside: int = 0


@dataclass(frozen=True)
class Predictor:
    """Predicts consistency before any data move; made by `fit_predictor`.

    Attributes:
        rows: training rows of the largest trial, the scale that scores refer to.
        learners: learners that were tried.
    """

    rows: int
    learners: tuple[str, ...]
    _model: "_Trees"
    _half_width: float
    _range: tuple[NDArray[np.float64], NDArray[np.float64]]
    _card: dict[str, Any]

    def card(self) -> dict[str, Any]:
        """Return what the predictor is and how good: data, features, cross-validated errors, baselines, versions."""
        return dict(self._card)

    def predict(self, rows: Sequence[dict[str, float]]) -> list[Score]:
        """Return a score for each row of inputs.

        Args:
            rows: values for every name in `FEATURES`; other names are ignored.

        Raises:
            ConfigError: an input is missing or not finite.
        """
        if not rows:
            return []
        for row in rows:
            bad = [name for name in FEATURES if name not in row or not np.isfinite(row[name])]
            if bad:
                raise ConfigError(f"inputs {bad} are missing or not finite; build rows as `score_partition` does")
        inputs = np.array([[row[name] for name in FEATURES] for row in rows])
        found = self._model.predict(inputs)
        low, high = np.clip(found - self._half_width, 0.0, 1.0), np.clip(found + self._half_width, 0.0, 1.0)
        outside = ((inputs < self._range[0]) | (inputs > self._range[1])).sum(axis=1)
        return [
            Score(float(s), float(a), float(b), int(o)) for s, a, b, o in zip(found, low, high, outside, strict=True)
        ]


def fit_predictor(trials: pa.Table) -> Predictor:
    """Fit a predictor and validate it on families it has not seen.

    The order of the rows does not matter; the same trials always give the same predictor.

    Args:
        trials: a table of `TRIAL_SCHEMA`; may join the trials of several runs.

    Raises:
        ConfigError: other columns, values that are not finite, or trials of fewer than two families.
    """
    if trials.schema.names != TRIAL_SCHEMA.names:
        odd = sorted(set(trials.schema.names) ^ set(TRIAL_SCHEMA.names))
        raise ConfigError(
            f"the trials table does not have the columns of TRIAL_SCHEMA (differing: {odd}); run trials again"
        )
    trials = trials.cast(TRIAL_SCHEMA).combine_chunks()
    trials = trials.sort_by(
        [(name, "ascending") for name in ("task", "strategy", "learner", "nodes", "rows", "seeds", TARGET)]
    )
    data = TrialData.from_table(trials)
    families = len(np.unique(data.family))
    if families < _MIN_FAMILIES:
        raise ConfigError(
            f"the trials cover {families} dataset families; a predictor needs 2 to be validated, add tasks"
        )
    if not np.isfinite(data.inputs).all() or not np.isfinite(data.target).all():
        raise ConfigError("the trials table holds values that are not finite; run trials again")
    residuals, figures = cross_validate(data, _fit_trees)
    half_width = conformal_half_width(residuals, COVERAGE)
    model = _fit_trees(data.inputs, data.target)
    card = _card(trials, figures, half_width, np.asarray(model.model.feature_importances_, np.float64))
    learners = tuple(sorted(set(texts(trials, "learner"))))
    low, high = data.inputs.min(axis=0), data.inputs.max(axis=0)
    margin = _RANGE_MARGIN * (high - low)
    bounds = (low - margin, high + margin)
    return Predictor(int(trials.column("rows").to_numpy().max()), learners, model, half_width, bounds, card)


@dataclass(frozen=True)
class _Trees:
    """Trees that predict consistency relative to the probe.

    Tasks differ most in the level that even random parts reach, and the probe measures that level; what is left, the
    share of it that a partition keeps, carries over to unseen datasets. With a handful of families in the history this
    halves the error.
    """

    model: Any

    def predict(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        shares = np.asarray(self.model.predict(inputs), np.float64)
        return np.clip(shares * probe_level(inputs), 0.0, 1.0)


def _fit_trees(inputs: NDArray[np.float64], target: NDArray[np.float64]) -> _Trees:
    from sklearn.ensemble import ExtraTreesRegressor

    model: Any = ExtraTreesRegressor(
        _TREES,
        min_samples_leaf=_MIN_LEAF,
        max_features=_FEATURE_SHARE,
        random_state=learner_seed(model="consistency predictor"),
        n_jobs=1,
    )
    return _Trees(model.fit(inputs, target / probe_level(inputs)))


def _card(
    trials: pa.Table, figures: dict[str, Any], half_width: float, importance: NDArray[np.float64]
) -> dict[str, Any]:
    import sklearn

    tasks = sorted(set(texts(trials, "task")))
    top = np.argsort(-importance, kind="stable")[:_TOP_FEATURES]
    return {
        "model": f"ExtraTreesRegressor({_TREES}, min_samples_leaf={_MIN_LEAF}, max_features={_FEATURE_SHARE})",
        "target": f"{TARGET}, learnt as a share of probe_iid",
        "trials": trials.num_rows,
        "tasks": tasks,
        "families": sorted({task.partition("/")[0] for task in tasks}),
        "strategies": sorted(set(texts(trials, "strategy"))),
        "learners": sorted(set(texts(trials, "learner"))),
        "training_digest": _digest(trials),
        "features": list(FEATURES),
        "cross_validation": {"left_out": "one dataset family at a time", **figures},
        "interval": {"coverage": COVERAGE, "half_width": half_width},
        "importance": {FEATURES[i]: float(importance[i]) for i in top},
        "versions": {"numpy": np.__version__, "scikit-learn": str(sklearn.__version__)},
    }


def _digest(trials: pa.Table) -> str:
    """SHA-256 (32 hex digits) of the sorted table's values; not of its file, which depends on the Arrow version."""
    state = hashlib.sha256()
    for name in TRIAL_SCHEMA.names:
        column = trials.column(name)
        state.update(name.encode() + b"\0")
        if pa.types.is_string(column.type):
            state.update("\0".join(texts(trials, name)).encode())
        else:
            state.update(np.ascontiguousarray(column.to_numpy()).astype("<f8").tobytes())
    return state.hexdigest()[:32]
