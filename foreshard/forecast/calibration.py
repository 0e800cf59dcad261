"""Calibration of probabilities: Platt scaling, kept only where it helps on windows it has not seen.

Platt, "Probabilistic outputs for support vector machines" (1999), with his smoothed targets. Isotonic calibration on
one origin was found to be catastrophic for re-fitted models (research/forecast.md §2b), so it is not offered.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.forecast.base import sigmoid
from foreshard.forecast.metrics import CLIP, Probabilities, log_loss

POOL: Final = 3
"""Origins that a curve is fitted on: fewer are noise, older ones are of another time (research/forecast.md §4)."""

_MAX_POINTS: Final = 200_000
_ROUNDS: Final = 50
_MARGIN: Final = 1e-3
"""Relative gain in log-loss below which the plain probability is kept."""


@dataclass(frozen=True)
class Platt:
    """Logistic curve on the log-odds; monotone, so it never changes a ranking.

    Attributes:
        slope: above 0; below 1 it draws probabilities towards the middle.
        intercept: shift of the log-odds.
    """

    slope: float
    intercept: float

    def apply(self, probability: Probabilities) -> NDArray[np.float64]:
        """Return calibrated probabilities of the same shape."""
        return sigmoid(self.slope * _log_odds(probability) + self.intercept)


def fit_platt(probability: Probabilities, accessed: NDArray[np.bool_]) -> Platt | None:
    """Fit the curve by Newton's method on at most 200,000 evenly spaced points.

    Where all outcomes are alike, which tell nothing of a slope, it is 1 and log-odds are shifted: what is read in every
    epoch gets a probability as near to 1 as so many outcomes prove.

    Args:
        probability: any shape.
        accessed: of the same shape, what happened.

    Returns:
        The curve; None without an outcome, or where higher probabilities went with fewer accesses.
    """
    stride = max(1, -(-probability.size // _MAX_POINTS))
    x = _log_odds(probability.ravel()[::stride])
    y = accessed.ravel()[::stride]
    yes = int(y.sum())
    no = len(y) - yes
    if not len(y):
        return None
    target = np.where(y, (yes + 1) / (yes + 2), 1 / (no + 2))
    features = np.stack([x, np.ones_like(x)])
    weights = np.array([1.0, 0.0])
    movable = np.array([bool(yes and no), True])
    loss = _loss(weights, features, target)
    for _ in range(_ROUNDS):
        p = sigmoid(_times(weights, features))
        slope = np.einsum("fn,n->f", features, p - target) / len(x)
        curvature = np.einsum("fn,gn->fg", features * (p * (1 - p)), features) / len(x) + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature * np.outer(movable, movable) + np.diag(1.0 - movable), slope * movable)
        # Halve the step until it helps: full Newton steps may overshoot on a flat sigmoid.
        while (better := _loss(weights - step, features, target)) > loss and np.abs(step).max() > CLIP:
            step /= 2
        if loss - better < 1e-12:  # noqa: PLR2004 -- rounding, not a tunable
            break
        weights, loss = weights - step, better
    return Platt(float(weights[0]), float(weights[1])) if weights[0] > 0 else None


def choose_platt(
    probabilities: Sequence[Probabilities], outcomes: Sequence[NDArray[np.bool_]], unseen: int
) -> Platt | None:
    """Return the curve fitted on the newest three origins, if it is worth it: see `tried_platt`.

    Args:
        probabilities: per origin, oldest first, shape (H, any); none was used to fit what made them.
        outcomes: per origin, of the same shape.
        unseen: how many of the newest origin's last windows no older origin was scored on.

    Returns:
        The curve, or None to keep the plain probability.
    """
    if tried_platt(probabilities, outcomes, unseen) is None:
        return None
    return _pooled(probabilities[-POOL:], outcomes[-POOL:])


def tried_platt(
    probabilities: Sequence[Probabilities], outcomes: Sequence[NDArray[np.bool_]], unseen: int
) -> Platt | None:
    """Return the curve fitted on the three origins before the newest, if it lowers the log-loss there.

    So it has not seen what it is judged by. Arguments are those of `choose_platt`; with fewer origins it is fitted on
    what there is, and with one there is none.
    """
    if len(probabilities) < 2:  # noqa: PLR2004 -- one to fit, one to judge
        return None
    curve = _pooled(probabilities[-1 - POOL : -1], outcomes[-1 - POOL : -1])
    newest, happened = probabilities[-1][-unseen:], outcomes[-1][-unseen:]
    if curve is None or log_loss(curve.apply(newest), happened) >= (1 - _MARGIN) * log_loss(newest, happened):
        return None
    return curve


def _pooled(probabilities: Sequence[Probabilities], outcomes: Sequence[NDArray[np.bool_]]) -> Platt | None:
    """Fit on several origins; how many chunks had been read by then differs between them."""
    said = [np.ascontiguousarray(each).ravel() for each in probabilities]
    return fit_platt(np.concatenate(said), np.concatenate([each.ravel() for each in outcomes]))


def _log_odds(probability: Probabilities) -> NDArray[np.float64]:
    clipped = np.clip(np.asarray(probability, np.float64), CLIP, 1 - CLIP)
    return np.log(clipped) - np.log1p(-clipped)


def _times(weights: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the product, shape (n,); `einsum` adds up in an order that no number of threads changes, `@` does not."""
    return np.einsum("f,fn->n", weights, features)


def _loss(weights: NDArray[np.float64], features: NDArray[np.float64], target: NDArray[np.float64]) -> float:
    """Return the mean cross entropy."""
    odds = _times(weights, features)
    return float(np.mean(np.logaddexp(0.0, odds) - target * odds))
