"""Trial tasks: real classification problems on which strategies are tried."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.consistency.sampling import spread_sample
from foreshard.consistency.sketch import feature_sketch
from foreshard.errors import ConfigError
from foreshard.seeding import derive_seed

_BUNDLED: Final = ("iris", "wine", "breast_cancer", "digits", "diabetes")


@dataclass(frozen=True)
class TrialTask:
    """A dataset small enough to train on many times.

    Attributes:
        name: `family` or `family/part`; parts of one dataset share a family, and validation leaves out whole families.
        features: shape (n, d), float32 standardised sketch, in the dataset's row order.
        labels: shape (n,), int32 class codes of at least two classes.

    Raises:
        ConfigError: arrays that do not fit together, values that are not finite, or a single class.
    """

    name: str
    features: NDArray[np.float32]
    labels: NDArray[np.int32]

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or len(self.features) != len(self.labels) or not self.features.shape[1]:  # noqa: PLR2004
            raise ConfigError(
                f"task {self.name!r} has features of shape {self.features.shape} for {len(self.labels)} labels; "
                "give (n, d) features with d >= 1 and n labels"
            )
        if not np.isfinite(self.features).all():
            raise ConfigError(f"task {self.name!r} has features that are not finite; impute them (see feature_sketch)")
        if len(np.unique(self.labels)) < 2:  # noqa: PLR2004 - nothing to predict
            raise ConfigError(f"task {self.name!r} has a single class; every model would agree, leave the task out")

    @property
    def family(self) -> str:
        """The dataset that the task is a part of."""
        return self.name.partition("/")[0]


def bundled_tasks() -> list[TrialTask]:
    """Return the real datasets that scikit-learn ships (no network).

    iris, wine, breast_cancer, digits; and diabetes, whose continuous target becomes quartiles, as a noisy task.
    """
    from sklearn import datasets

    loaders: Any = datasets
    tasks: list[TrialTask] = []
    for name in _BUNDLED:
        values, target = getattr(loaders, f"load_{name}")(return_X_y=True)
        columns = {f"x{i:02d}": pa.array(column) for i, column in enumerate(np.asarray(values, np.float64).T)}
        table = pa.table({**columns, "target": pa.array(np.asarray(target))})
        tasks.append(TrialTask(name, *feature_sketch(table, "target")))
    return tasks


def subsample_tasks(
    name: str, features: NDArray[np.float32], labels: NDArray[np.int32], *, count: int, rows: int
) -> list[TrialTask]:
    """Return `count` tasks of at most `rows` rows each, `name/0`, `name/1`, ..., that keep the dataset's row order.

    Trials hold out a third of a task's rows: give 1.5 times the training rows wanted.

    Raises:
        ConfigError: see `TrialTask` and `spread_sample`.
    """
    tasks: list[TrialTask] = []
    for part in range(count):
        positions = spread_sample(len(labels), rows, derive_seed(purpose="task sample", part=part))
        tasks.append(TrialTask(f"{name}/{part}", features[positions], labels[positions]))
    return tasks
