"""Real datasets with something to learn from them, and the linear classifier that learns it."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import mnist, workloads
from examples.flights import model as flights_model


@dataclass(frozen=True)
class Task:
    """A dataset and what is learnt from it.

    Attributes:
        name: what figures call it.
        source: folder of Parquet files.
        target: column that is predicted.
        features: columns that the planner's models see.
        columns: columns that are read.
        classes: of the target.
        design: makes of rows by name a design matrix and the target.
    """

    name: str
    source: Path
    target: str
    features: tuple[str, ...]
    columns: tuple[str, ...]
    classes: int
    design: Callable[[Any], tuple[NDArray[np.float32], NDArray[np.int8]]]


def flights(rows: int | None = None) -> Task:
    """Return the flights of 2013, spread over the year: 20 narrow columns, 7 of them read; is a flight late?"""
    return Task(
        "flights",
        workloads.tabular(rows).folder,
        "late",
        ("dep_delay", "month", "hour", "distance", "carrier", "origin"),
        flights_model.COLUMNS,
        2,
        lambda rows: (flights_model.features(rows), flights_model.labels(rows)),
    )


def pictures(rows: int | None = None) -> Task:
    """Return the images of MNIST: rows of 784 bytes; which digit is it?"""

    def design(rows: Any) -> tuple[NDArray[np.float32], NDArray[np.int8]]:  # noqa: ANN401
        flat = np.frombuffer(b"".join(rows["image"]), np.uint8).reshape(-1, mnist.PIXELS)
        return flat.astype(np.float32) / 255, np.asarray(rows["label"])

    return Task("mnist", mnist.images(rows), "label", ("ink", "width", "height"), ("image", "label"), 10, design)


class Learner:
    """A linear classifier that learns by stochastic gradient descent."""

    def __init__(self, task: Task) -> None:
        from sklearn.linear_model import SGDClassifier

        self._task = task
        self._model: Any = SGDClassifier(
            loss="log_loss", alpha=1e-6, learning_rate="constant", eta0=0.02, random_state=0
        )

    def learn(self, rows: Any, weights: NDArray[np.float64] | None = None) -> None:  # noqa: ANN401
        """Take a step over a batch."""
        x, y = self._task.design(rows)
        self._model.partial_fit(x, y, classes=np.arange(self._task.classes), sample_weight=weights)

    def losses(self, rows: Any) -> NDArray[np.float64]:  # noqa: ANN401
        """Return the log-loss of every sample."""
        x, y = self._task.design(rows)
        return -np.log(np.maximum(self._model.predict_proba(x)[np.arange(len(y)), y], 1e-12))

    def digest(self) -> str:
        """Return the SHA-256 of the parameters."""
        return hashlib.sha256(self._model.coef_.tobytes() + self._model.intercept_.tobytes()).hexdigest()
