"""Measured consistency: train a small model on each node's part under several seeds and compare what they predict.

Definitions from research/optimise.md §1.1. Agreement of two models is 1 - the mean total variation distance between
their predicted class probabilities on a hold-out: the soft form of 1 - churn (Milani Fard et al., NIPS 2016).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.consistency.learners import Features, Labels, fit_predict, get_learner
from foreshard.consistency.sampling import learner_seed
from foreshard.errors import ConfigError, PlanError
from foreshard.seeding import derive_seed, row_keys

_MIN_SEEDS: Final = 2
_PROBE_PARTS: Final = 4


@dataclass(frozen=True)
class Measurement:
    """Consistency in [0, 1], 1 being perfectly consistent.

    Attributes:
        node: do two nodes' models answer alike? 1 for a single node.
        seed: do two runs with other seeds answer alike (the average of their nodes' models)?
        all: both at once: agreement over all pairs of node models of all seeds. The headline score.
        eval: 1 - the spread of hold-out accuracy between nodes.
    """

    node: float
    seed: float
    all: float
    eval: float


def agreement(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return 1 - the mean total variation distance between two (q, classes) arrays of probabilities."""
    return float(1.0 - np.abs(first - second).sum(axis=1).mean() / 2)


def measure(
    features: Features,
    labels: Labels,
    partitions: Sequence[NDArray[np.int32]],
    nodes: int,
    learner: str,
    holdout: tuple[Features, Labels],
) -> Measurement:
    """Train `learner` on every node's part of every partition and compare the models on the hold-out.

    Args:
        features: shape (m, d) training rows.
        labels: shape (m,) class codes.
        partitions: one per seed, at least two: shape (m,), the node of every row.
        nodes: number of nodes.
        learner: a name in `LEARNERS`.
        holdout: features (q, d) and labels (q,) that no node trains on.

    Raises:
        ConfigError: an unknown learner, fewer than two partitions or an empty hold-out.
        PlanError: a partition of the wrong length, with a node out of range or a node without rows.
    """
    model = get_learner(learner)
    queries, truth = holdout
    if len(partitions) < _MIN_SEEDS:
        raise ConfigError(f"{len(partitions)} partition was given; consistency compares at least 2 seeds")
    if not len(truth):
        raise ConfigError("the hold-out has no rows; models cannot be compared")
    classes = int(max(labels.max(), truth.max())) + 1
    predicted = np.empty((len(partitions), nodes, len(truth), classes))
    shares = np.empty((len(partitions), nodes))
    for replicate, node_of in enumerate(partitions):
        shares[replicate] = check_partition(node_of, len(labels), nodes) / len(labels)
        for node in range(nodes):
            rows = np.flatnonzero(node_of == node)
            seed = learner_seed(replicate=replicate, node=node)
            predicted[replicate, node] = fit_predict(model, features[rows], labels[rows], seed, queries, classes)
    averaged = np.einsum("rk,rkqc->rqc", shares, predicted)
    accuracy = (predicted.argmax(axis=3) == truth).mean(axis=2)
    return Measurement(
        node=float(np.mean([_mean_agreement(models) for models in predicted])),
        seed=_mean_agreement(averaged),
        all=_mean_agreement(predicted.reshape(-1, len(truth), classes)),
        eval=float(1.0 - np.ptp(accuracy, axis=1).mean()),
    )


def check_partition(node_of: NDArray[np.int32], rows: int, nodes: int) -> NDArray[np.int64]:
    """Return the rows on each node.

    Raises:
        PlanError: a wrong length, a node outside 0..nodes-1, or a node without rows.
    """
    if len(node_of) != rows:
        raise PlanError(f"the partition places {len(node_of)} rows, the data has {rows}")
    if rows and (node_of.min() < 0 or node_of.max() >= nodes):
        raise PlanError(f"the partition uses nodes {node_of.min()}..{node_of.max()}; there are 0..{nodes - 1}")
    counts = np.bincount(node_of, minlength=nodes)
    if (counts == 0).any():
        raise PlanError(f"nodes {np.flatnonzero(counts == 0).tolist()} have no rows; use fewer nodes or more rows")
    return counts


def probe(
    features: Features, labels: Labels, nodes: int, learner: str, holdout: tuple[Features, Labels]
) -> dict[str, float]:
    """Return what a few fits at a node's size tell of a task, before any partition is tried.

    Args:
        features: shape (m, d) training rows.
        labels: shape (m,) class codes.
        nodes: number of nodes; each of up to 4 disjoint random parts of m / nodes rows (m / 2 for one node) is
            trained on with two seeds.
        learner: a name in `LEARNERS`.
        holdout: features and labels for comparing the models.

    Returns:
        probe_iid: agreement of models from disjoint random parts, the level that partitioning cannot much exceed.
        seed_sensitivity: 1 - agreement of two seeds on the same part (the specification's third factor).

    Raises:
        ConfigError: an unknown learner, fewer than 2 rows or an empty hold-out.
    """
    model = get_learner(learner)
    if len(labels) < 2 or not len(holdout[1]):  # noqa: PLR2004 - two parts
        raise ConfigError(f"a probe needs 2 training rows and a hold-out, got {len(labels)} and {len(holdout[1])}")
    classes = int(max(labels.max(), holdout[1].max())) + 1
    order = np.argsort(row_keys(derive_seed(purpose="probe"), np.arange(len(labels), dtype=np.int64)), kind="stable")
    size = max(1, len(labels) // max(2, nodes))
    parts = min(_PROBE_PARTS, len(labels) // size)
    answers = np.empty((2, parts, len(holdout[1]), classes))
    for again in range(2):
        for part in range(parts):
            rows = order[part * size : (part + 1) * size]
            seed = learner_seed(probe=part, again=again)
            answers[again, part] = fit_predict(model, features[rows], labels[rows], seed, holdout[0], classes)
    same = [agreement(answers[0, part], answers[1, part]) for part in range(parts)]
    return {
        "probe_iid": float(np.mean([_mean_agreement(models) for models in answers])),
        "seed_sensitivity": 1.0 - float(np.mean(same)),
    }


def _mean_agreement(models: NDArray[np.float64]) -> float:
    """Mean agreement over all pairs of (models, q, classes); 1 for a single model."""
    count = len(models)
    if count == 1:
        return 1.0
    distance = sum(float(np.abs(models[i + 1 :] - models[i]).sum()) for i in range(count - 1))
    return float(np.clip(1.0 - distance / (count * (count - 1) * models.shape[1]), 0.0, 1.0))
