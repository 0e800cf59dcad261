"""Scores: predicted consistency of each candidate strategy, and of the plan that was made of one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.consistency.inputs import training_features
from foreshard.consistency.measure import probe
from foreshard.consistency.partition import partition_sketch
from foreshard.consistency.predictor import Predictor, Score
from foreshard.consistency.profile import DatasetProfile
from foreshard.consistency.trials import mean_sketch, training_split
from foreshard.errors import ConfigError, PlanError
from foreshard.seeding import derive_seed
from foreshard.strategies import Strategy, StrategyInput, partition

_FIGURES: Final = (
    "label_tv",
    "label_js",
    "missing_classes",
    "size_cv",
    "mean_difference",
    "mmd",
    "centroid_agreement",
)
SCORE_SCHEMA: Final = pa.schema(
    [
        pa.field("strategy", pa.string(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("low", pa.float64(), nullable=False),
        pa.field("high", pa.float64(), nullable=False),
        pa.field("outside", pa.int32(), nullable=False),
        *(pa.field(name, pa.float64(), nullable=False) for name in _FIGURES),
    ]
)
"""One row per strategy, best first, with the figures of the partition sketch that people can read."""

_REPLICATES: Final = 3
"""Samples that a score is averaged over, so that one draw of rows does not decide between near-ties."""


@dataclass(frozen=True)
class _Sample:
    """Rows that stand for the dataset at the scale of the trials, and what of them needs no partition."""

    rows: NDArray[np.int64]
    features: NDArray[np.float32]
    labels: NDArray[np.int32]
    probed: dict[str, float]


def score_strategies(  # noqa: PLR0913 - the contract's arguments, named at the call
    predictor: Predictor,
    profile: DatasetProfile,
    features: NDArray[np.float32],
    labels: NDArray[np.int32],
    strategies: Mapping[str, Strategy],
    *,
    heat: NDArray[np.float32],
    nodes: int,
    learner: str,
    chunk_rows: int,
    seed: bytes,
) -> pa.Table:
    """Predict the consistency of each strategy from samples of the data, before any of it moves.

    A score refers to the scale of the trials: it is what a trial of `predictor.rows` rows would be expected to
    measure. Rows are sampled to that scale and chunks shrink with them, so the cost does not grow with the dataset.

    Args:
        predictor: from `fit_predictor`.
        profile: the dataset's profile.
        features: shape (m, d) sketch of the rows to be partitioned (one split), in id order.
        labels: shape (m,) class codes.
        strategies: candidates by name.
        heat: shape (m,) expected draws per row.
        nodes: nodes of the cluster.
        learner: the learner nearest to the user's model.
        chunk_rows: rows per chunk at full scale.
        seed: 16 bytes from `derive_seed`.

    Returns:
        A table of `SCORE_SCHEMA`, best score first, equal ones by name.

    Raises:
        ConfigError: no strategy, a learner without trials, or arrays of different lengths.
        PlanError: fewer rows than nodes, or `nodes` or `chunk_rows` below 1.
    """
    if not strategies:
        raise ConfigError("no strategy was given; there is nothing to score")
    if len(heat) != len(labels):
        raise ConfigError(f"heat has {len(heat)} rows, labels have {len(labels)}; give one per sample")
    inputs: list[dict[str, float]] = []
    for sample in _samples(predictor, features, labels, nodes, learner, seed):
        scaled = max(1, round(chunk_rows * len(sample.rows) / len(labels))) if chunk_rows > 0 else chunk_rows
        for name, strategy in strategies.items():
            drawn = derive_seed(purpose="score", strategy=name, seed=seed)
            data = StrategyInput(sample.rows, sample.labels, sample.features, heat[sample.rows], drawn)
            node_of = partition(strategy, data, nodes, scaled)
            inputs.append(_inputs(profile, sample, node_of, nodes, learner))
    scores = predictor.predict(inputs)
    records: list[dict[str, object]] = []
    for index, name in enumerate(strategies):
        score = _average(scores[index :: len(strategies)])
        sketch = mean_sketch(inputs[index :: len(strategies)])
        figures = {figure: sketch[figure] for figure in _FIGURES}
        interval = {"score": score.score, "low": score.low, "high": score.high, "outside": score.outside}
        records.append({"strategy": name, **interval, **figures})
    return pa.Table.from_pylist(records, schema=SCORE_SCHEMA).sort_by(
        [("score", "descending"), ("strategy", "ascending")]
    )


def score_partition(
    predictor: Predictor,
    profile: DatasetProfile,
    features: NDArray[np.float32],
    labels: NDArray[np.int32],
    node_of: NDArray[np.int32],
    nodes: int,
    learner: str,
) -> Score:
    """Predict the consistency of a partition as it is, such as a plan's after the optimiser moved chunks.

    Nodes that hold no row train no model and are left out.

    Args:
        predictor: from `fit_predictor`.
        profile: the dataset's profile.
        features: shape (m, d) sketch of the partitioned rows, in id order.
        labels: shape (m,) class codes.
        node_of: shape (m,), the node of every row.
        nodes: number of nodes.
        learner: the learner nearest to the user's model.

    Raises:
        ConfigError: a learner without trials, or arrays of different lengths.
        PlanError: a partition of the wrong length or with a node out of range, or fewer rows than nodes.
    """
    if len(node_of) != len(labels):
        raise PlanError(f"the partition places {len(node_of)} rows, the data has {len(labels)}")
    if len(node_of) and (node_of.min() < 0 or node_of.max() >= nodes):
        raise PlanError(f"the partition uses nodes {node_of.min()}..{node_of.max()}; there are 0..{nodes - 1}")
    inputs: list[dict[str, float]] = []
    for sample in _samples(predictor, features, labels, nodes, learner, derive_seed(purpose="score partition")):
        used, dense = np.unique(node_of[sample.rows], return_inverse=True)
        inputs.append(_inputs(profile, sample, dense.astype(np.int32), len(used), learner))
    return _average(predictor.predict(inputs))


def _samples(
    predictor: Predictor,
    features: NDArray[np.float32],
    labels: NDArray[np.int32],
    nodes: int,
    learner: str,
    seed: bytes,
) -> list[_Sample]:
    if learner not in predictor.learners:
        raise ConfigError(f"learner {learner!r} was not tried; trials cover {', '.join(predictor.learners)}")
    if len(features) != len(labels):
        raise ConfigError(f"features have {len(features)} rows, labels have {len(labels)}; give one row per sample")
    if nodes < 1 or len(labels) < max(3, 2 * nodes):
        raise PlanError(f"{len(labels)} rows on {nodes} nodes cannot be scored; it takes 1 node and 2 rows for each")
    samples: list[_Sample] = []
    for replicate in range(_REPLICATES):
        drawn = derive_seed(purpose="score rows", seed=seed, replicate=replicate)
        rows, held = training_split(len(labels), predictor.rows, drawn)
        probed = probe(features[rows], labels[rows], nodes, learner, (features[held], labels[held]))
        samples.append(_Sample(rows, features[rows], labels[rows], probed))
    return samples


def _inputs(
    profile: DatasetProfile, sample: _Sample, node_of: NDArray[np.int32], nodes: int, learner: str
) -> dict[str, float]:
    return {
        **profile.features,
        **training_features(learner, profile.features, len(sample.rows), nodes),
        **partition_sketch(sample.features, sample.labels, node_of, nodes),
        **sample.probed,
    }


def _average(scores: list[Score]) -> Score:
    return Score(
        score=float(np.mean([s.score for s in scores])),
        low=float(np.mean([s.low for s in scores])),
        high=float(np.mean([s.high for s in scores])),
        outside=max(s.outside for s in scores),
    )
