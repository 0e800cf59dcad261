"""Small scikit-learn models that stand in for the user's model in trials."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from foreshard.errors import ConfigError

Features = NDArray[np.float32]
Labels = NDArray[np.int32]

_TREE_DEPTH: Final = 8
_HIDDEN: Final = 16
_MLP_PASSES: Final = 40


@dataclass(frozen=True)
class Learner:
    """A model family with fixed training parameters.

    Attributes:
        fit: (features, labels of >= 2 classes, seed) -> fitted scikit-learn classifier.
        parameters: (features, classes) -> number of free parameters, the learner's capacity.
    """

    fit: Callable[[Features, Labels, int], Any]
    parameters: Callable[[int, int], int]


def _fit_logistic(features: Features, labels: Labels, seed: int) -> Any:  # noqa: ANN401 - untyped library
    from sklearn.linear_model import SGDClassifier

    # tol=None runs exactly max_iter passes: no early stop, hence no convergence warning to silence.
    # Averaged weights (Polyak and Juditsky, 1992): otherwise the last few rows seen would decide on noisy tasks.
    classifier: Any = SGDClassifier
    model = classifier(loss="log_loss", alpha=1e-3, max_iter=10, tol=None, average=True, random_state=seed)
    return model.fit(features, labels)


def _fit_tree(features: Features, labels: Labels, seed: int) -> Any:  # noqa: ANN401 - untyped library
    from sklearn.tree import DecisionTreeClassifier

    # Leaves of 3 rows and more give graded probabilities; the seed picks the features looked at in each split.
    model: Any = DecisionTreeClassifier(
        max_depth=_TREE_DEPTH, min_samples_leaf=3, max_features="sqrt", random_state=seed
    )
    return model.fit(features, labels)


def _fit_mlp(features: Features, labels: Labels, seed: int) -> Any:  # noqa: ANN401 - untyped library
    from sklearn.neural_network import MLPClassifier

    classifier: Any = MLPClassifier
    model = classifier((_HIDDEN,), learning_rate_init=0.01, batch_size=min(64, len(labels)), random_state=seed)
    classes = np.unique(labels)
    for _ in range(_MLP_PASSES):  # a fixed number of passes, where fit() would warn that it did not converge
        model.partial_fit(features, labels, classes=classes)
    return model


LEARNERS: Final[dict[str, Learner]] = {
    "logistic": Learner(_fit_logistic, lambda features, classes: (features + 1) * max(1, classes - 1)),
    "tree": Learner(_fit_tree, lambda _, classes: 2**_TREE_DEPTH * max(1, classes - 1)),
    "mlp": Learner(_fit_mlp, lambda features, classes: _HIDDEN * (features + 1) + (_HIDDEN + 1) * max(1, classes - 1)),
}
"""Learners by name. `logistic`: 10 passes of averaged gradient descent; `tree`: depth 8; `mlp`: 16 hidden units."""


def get_learner(name: str) -> Learner:
    """Return a learner.

    Raises:
        ConfigError: there is no learner of this name.
    """
    if name not in LEARNERS:
        raise ConfigError(f"learner {name!r} is unknown; use one of {', '.join(LEARNERS)}")
    return LEARNERS[name]


def fit_predict(
    learner: Learner, features: Features, labels: Labels, seed: int, queries: Features, classes: int
) -> NDArray[np.float64]:
    """Train on (m, d) features and return class probabilities of (q, d) queries.

    Rows of a single class give the model that always answers it, as training on such a node would.

    Returns:
        Shape (q, classes), rows sum to 1; 0 for classes the training rows lack.
    """
    present = np.unique(labels)
    result = np.zeros((len(queries), classes))
    if len(present) == 1:
        result[:, present[0]] = 1.0
        return result
    model = learner.fit(features, labels, seed)
    result[:, present] = np.asarray(model.predict_proba(queries), np.float64)
    return result
