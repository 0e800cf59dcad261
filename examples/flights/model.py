"""The classifier: logistic regression by stochastic gradient descent on features known at departure."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

COLUMNS: Final = ("dep_delay", "month", "hour", "distance", "carrier", "origin", "late")
_CARRIERS: Final = np.array(
    ["9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL", "HA", "MQ", "OO", "UA", "US", "VX", "WN", "YV"], object
)
_ORIGINS: Final = np.array(["EWR", "JFK", "LGA"], object)
_LONGEST: Final = 180.0
_LATE_MINUTES: Final = 15
_MAX_WEIGHT: Final = 10.0


def features(rows: Any) -> NDArray[np.float32]:  # noqa: ANN401 - a Batch, or a dict of numpy arrays
    """Return the design matrix, float32 (b, 28), of the named columns."""
    delay = np.asarray(rows["dep_delay"], np.float64)
    unknown = np.isnan(delay)
    delay = np.where(unknown, 0.0, delay)
    month = np.asarray(rows["month"]) * (np.pi / 6)
    parts = [
        np.tanh(delay / 30),
        np.clip(delay, -20, _LONGEST) / 60,
        delay > 0,
        delay > _LATE_MINUTES,
        unknown,
        (np.asarray(rows["hour"]) - 13) / 5,
        np.asarray(rows["distance"]) / 1000,
        np.sin(month),
        np.cos(month),
    ]
    one_hot = [np.asarray(rows["carrier"]) == name for name in _CARRIERS]
    one_hot += [np.asarray(rows["origin"]) == name for name in _ORIGINS]
    return np.stack([np.asarray(part, np.float32) for part in parts + one_hot], axis=1)


def labels(rows: Any) -> NDArray[np.int8]:  # noqa: ANN401
    """Return the target, int8 (b,)."""
    return np.asarray(rows["late"]).astype(np.int8)


class Classifier:
    """scikit-learn's SGDClassifier with what importance sampling needs: losses out, sample weights in."""

    def __init__(self) -> None:
        from sklearn.linear_model import SGDClassifier

        self._model: Any = SGDClassifier(
            loss="log_loss", alpha=1e-6, learning_rate="constant", eta0=0.02, random_state=0
        )
        self._started = False

    def learn(
        self, x: NDArray[np.float32], y: NDArray[np.int8], chances: NDArray[np.float64] | None
    ) -> NDArray[np.float64]:
        """Take one step and return the loss of every sample before it.

        Args:
            x: design matrix, (b, d).
            y: target, (b,).
            chances: probability of each sample relative to uniform, (b,); a sample drawn twice as often weighs half,
                so that the expected gradient is that of uniform sampling (Katharopoulos & Fleuret, ICML 2018). None
                for a full pass.
        """
        losses = self.losses(x, y) if self._started else np.full(len(y), np.log(2))
        weight = None if chances is None else np.minimum(1 / chances, _MAX_WEIGHT)
        self._model.partial_fit(x, y, classes=[0, 1], sample_weight=weight)
        self._started = True
        return losses

    def losses(self, x: NDArray[np.float32], y: NDArray[np.int8]) -> NDArray[np.float64]:
        """Return the log-loss of every sample."""
        margin = np.asarray(self._model.decision_function(x)) * (2.0 * y - 1)
        return np.logaddexp(0, -margin)

    def auc(self, x: NDArray[np.float32], y: NDArray[np.int8]) -> float:
        """Return the area under the ROC curve."""
        from sklearn.metrics import roc_auc_score

        return float(roc_auc_score(y, self._model.decision_function(x)))

    def state(self) -> dict[str, NDArray[np.float64]]:
        """Return everything that decides the next step."""
        return {
            "coef": np.asarray(self._model.coef_),
            "intercept": np.asarray(self._model.intercept_),
            "t": np.array(self._model.t_),
        }

    def load(self, state: dict[str, NDArray[np.float64]]) -> None:
        """Continue from `state`."""
        # One throw-away step makes scikit-learn allocate its arrays, which are then overwritten.
        width = state["coef"].shape[1]
        self._model.partial_fit(np.zeros((2, width), np.float32), np.array([0, 1], np.int8), classes=[0, 1])
        self._model.coef_ = state["coef"].copy()
        self._model.intercept_ = state["intercept"].copy()
        self._model.t_ = float(state["t"])
        self._started = True
