"""What forecasts are judged by: how well they rank chunks, and how true their probabilities are.

Ranks are judged at a depth, a share of the chunks, as a cache of that size would use them. Ties are broken by position,
as the ranked table breaks them by chunk id, so that what is judged is what is used.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.errors import ConfigError

CLIP: Final = 1e-6
"""Probabilities are kept this far from 0 and 1, so that one surprise costs 14 nats and not infinitely many."""

ECE_BINS: Final = 10

Probabilities = NDArray[np.float64 | np.float32]
Counts = NDArray[np.float64 | np.float32]


def depth_of(fraction: float, count: int) -> int:
    """Return how many of `count` chunks a fraction of them is, rounded up.

    Raises:
        ConfigError: the fraction is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"fraction {fraction} of the chunks must be in (0, 1]")
    # Rounded before it is rounded up: 0.1 * 30 is a little more than 3.
    return int(np.ceil(round(fraction * count, 9)))


def top(expected: Counts, fraction: float) -> NDArray[np.int64]:
    """Return the positions of the largest values, the largest first, as many as `depth_of` says.

    Args:
        expected: shape (C,).
        fraction: of the C chunks, in (0, 1].
    """
    depth = depth_of(fraction, len(expected))
    if depth == len(expected):
        return np.argsort(-expected, kind="stable")
    # Sorting only what is returned is several times as fast as sorting all.
    least = np.partition(expected, len(expected) - depth)[len(expected) - depth]
    above = expected > least
    above[np.flatnonzero(expected == least)[: depth - int(np.count_nonzero(above))]] = True
    chosen = np.flatnonzero(above)
    return chosen[np.argsort(-expected[chosen], kind="stable")]


# -- ranks ---------------------------------------------------------------------------------------------


def ndcg_at(expected: Counts, actual: Counts, fraction: float) -> float:
    """Return the normalised discounted cumulative gain of a ranking, in [0, 1]; 1 if nothing was accessed.

    The gain of a chunk is its access count, the discount of rank r (from 1) is 1 / log2(r + 1). Järvelin and
    Kekäläinen, "Cumulated gain-based evaluation of IR techniques" (ACM TOIS 20, 2002).

    Args:
        expected: shape (C,), what chunks are ranked by.
        actual: shape (C,), access counts as they came.
        fraction: depth of the ranking as a share of C, in (0, 1].
    """
    chosen, best = top(expected, fraction), top(actual, fraction)
    discount = 1.0 / np.log2(np.arange(2, len(chosen) + 2))
    # Not `@`: how that adds up long rankings depends on the number of threads.
    ideal = float((discount * actual[best]).sum())
    return float((discount * actual[chosen]).sum()) / ideal if ideal else 1.0


def precision_at(expected: Counts, actual: Counts, fraction: float) -> float:
    """Return the share of the chunks ranked highest that were accessed; arguments are those of `ndcg_at`.

    With fewer accessed chunks than ranked ones, even a perfect ranking stays below 1. 0 without chunks.
    """
    chosen = top(expected, fraction)
    return float(np.count_nonzero(actual[chosen])) / len(chosen) if len(chosen) else 0.0


def hit_mass(expected: Counts, actual: Counts, fraction: float) -> float:
    """Return the share of accesses on the chunks ranked highest: the hit rate of a cache that pins these.

    Arguments are those of `ndcg_at`; 1 if nothing was accessed.
    """
    total = float(actual.sum(dtype=np.float64))
    return float(actual[top(expected, fraction)].sum(dtype=np.float64)) / total if total else 1.0


def relative_error(expected: Counts, actual: Counts) -> float:
    """Return sum |expected - actual| / sum max(expected, actual) over chunks: 0 if all agree, 1 if none overlap.

    Counting noise is part of it: a perfect forecast of few draws has an error too.
    """
    larger = float(np.maximum(expected, actual).sum(dtype=np.float64))
    return float(np.abs(expected - actual).sum(dtype=np.float64)) / larger if larger else 0.0


# -- probabilities -------------------------------------------------------------------------------------


def log_loss(probability: Probabilities, accessed: NDArray[np.bool_]) -> float:
    """Return the mean negative log-likelihood, in nats, of what happened."""
    clipped = np.clip(np.asarray(probability, np.float64), CLIP, 1 - CLIP)
    return float(-np.mean(np.log(np.where(accessed, clipped, 1 - clipped))))


def brier(probability: Probabilities, accessed: NDArray[np.bool_]) -> float:
    """Return the mean squared difference between probabilities and what happened.

    Brier, "Verification of forecasts expressed in terms of probability" (Monthly Weather Review 78, 1950).
    """
    return float(np.mean((np.asarray(probability, np.float64) - accessed) ** 2))


def brier_skill(score: float, reference: float) -> float | None:
    """Return by what share a Brier score is below a reference's: 1 for a perfect forecast, negative for a worse one.

    Returns:
        None if the reference is 0: nothing can be better than that, and there is no share of it.
    """
    return 1.0 - score / reference if reference else None


def calibration_error(probability: Probabilities, accessed: NDArray[np.bool_], bins: int = ECE_BINS) -> float:
    """Return the expected calibration error: the mean gap between what was said and what came, in [0, 1].

    Probabilities are sorted into bins of equal width, [0, 1/bins), ..., [1 - 1/bins, 1]; in each, the gap is that
    between the mean probability and the share accessed, and it counts by how many fall into the bin. Naeini, Cooper
    and Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning" (AAAI 2015).

    Args:
        probability: any shape, not empty.
        accessed: of the same shape, what happened.
        bins: how many.
    """
    said = np.asarray(probability, np.float64).ravel()
    bin_of = np.minimum((said * bins).astype(np.int64), bins - 1)
    # In each bin, n * |mean said - mean came| is the absolute sum of differences.
    gap = np.bincount(bin_of, weights=said - accessed.ravel(), minlength=bins)
    return float(np.abs(gap).sum()) / len(said)
