"""What the predictor sees of a (dataset, learner, partition): one named number after another."""

from collections.abc import Mapping
from typing import Final

import numpy as np

from foreshard.consistency.learners import LEARNERS, get_learner
from foreshard.consistency.metafeatures import METAFEATURES
from foreshard.consistency.partition import SKETCH_FEATURES

TRAINING_FEATURES: Final = (
    "nodes",
    "log_rows_per_node",
    "log_parameters",
    *(f"learner_{name}" for name in LEARNERS),
)
PROBE_FEATURES: Final = ("probe_iid", "seed_sensitivity")
FEATURES: Final = (*METAFEATURES, *TRAINING_FEATURES, *SKETCH_FEATURES, *PROBE_FEATURES)
"""Every input of the predictor. The strategy's name is none of them, so that new strategies and plans can be scored."""


def training_features(learner: str, meta: Mapping[str, float], rows: int, nodes: int) -> dict[str, float]:
    """Return `TRAINING_FEATURES`: target architecture and training parameters.

    Args:
        learner: a name in `LEARNERS`; one-hot, with the logarithm of its number of parameters.
        meta: the dataset's meta-features.
        rows: training rows over all nodes.
        nodes: number of nodes.

    Raises:
        ConfigError: an unknown learner.
    """
    parameters = get_learner(learner).parameters(int(meta["features"]), int(meta["classes"]))
    return {
        "nodes": float(nodes),
        "log_rows_per_node": float(np.log2(rows / nodes)),
        "log_parameters": float(np.log2(parameters)),
        **{f"learner_{name}": float(name == learner) for name in LEARNERS},
    }
