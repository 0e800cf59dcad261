"""Partition sketch: how different the nodes' parts are, from sums that one pass over the rows collects.

No model is trained. Every sum is per node and adds up over chunks. The measures are those of research/optimise.md §1.3:
label marginals (total variation, Jensen-Shannon), maximum mean discrepancy by random Fourier features (Rahimi and
Recht, NIPS 2007), moments, sizes, and the agreement of nearest-centroid models as a proxy of trained ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.consistency.measure import check_partition
from foreshard.consistency.sampling import spread_sample
from foreshard.errors import PlanError
from foreshard.seeding import derive_seed, uniforms

SKETCH_FEATURES: Final = (
    "label_tv",
    "label_tv_max",
    "label_js",
    "label_tv_scaled",
    "missing_classes",
    "min_class_count",
    "size_cv",
    "min_share",
    "mean_difference",
    "mean_difference_max",
    "std_ratio",
    "correlation_difference",
    "conditional_shift",
    "mmd",
    "mmd_scaled",
    "centroid_agreement",
    "centroid_agreement_min",
)

_FOURIER: Final = 64
_BLOCK: Final = 65_536
_QUERY_ROWS: Final = 600

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Sums:
    """Sums over the rows of each node.

    Attributes:
        count: (K, c) rows per class.
        first: (K, c, d) sums of features per class.
        second: (K, d, d) sums of products of features.
        fourier: (K, 64) sums of random Fourier features.
    """

    count: Floats
    first: Floats
    second: Floats
    fourier: Floats


def partition_sketch(
    features: NDArray[np.float32], labels: NDArray[np.int32], node_of: NDArray[np.int32], nodes: int
) -> dict[str, float]:
    """Return `SKETCH_FEATURES` of a partition.

    Means over nodes are weighted by rows. `*_scaled` grow with the rows of a node, so that a random partition has
    about the same value whatever its size.

    Args:
        features: shape (m, d).
        labels: shape (m,) class codes.
        node_of: shape (m,), the node of every row.
        nodes: number of nodes.

    Raises:
        PlanError: a partition of the wrong length, with a node out of range or without rows, or no rows or features.
    """
    if features.shape != (len(labels), features.shape[-1]) or not features.size:
        raise PlanError(
            f"features have shape {features.shape} for {len(labels)} labels; give one row per label, d >= 1"
        )
    sizes = check_partition(node_of, len(labels), nodes).astype(np.float64)
    codes = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    sums = _collect(features, codes, node_of, nodes)
    queries = features[spread_sample(len(labels), _QUERY_ROWS, derive_seed(purpose="centroid queries"))]
    return (
        _label_measures(sums, sizes)
        | _size_measures(sizes)
        | _moment_measures(sums, sizes)
        | _fourier_measures(sums, sizes)
        | _centroid_measures(sums, queries.astype(np.float64))
    )


def _collect(features: NDArray[np.float32], codes: NDArray[np.int64], node_of: NDArray[np.int32], nodes: int) -> _Sums:
    classes, dims = int(codes.max()) + 1, features.shape[1]
    frequencies, phases = _fourier_basis(dims)
    count, first = np.zeros((nodes * classes, 1)), np.zeros((nodes * classes, dims))
    second, fourier = np.zeros((nodes, dims * dims)), np.zeros((nodes, _FOURIER))
    for low, high in _blocks(len(codes)):
        node = node_of[low:high].astype(np.int64)
        cell = node * classes + codes[low:high]
        block = features[low:high].astype(np.float64)
        _add_by(count, cell, np.ones((len(cell), 1)))
        _add_by(first, cell, block)
        _add_by(second, node, (block[:, :, None] * block[:, None, :]).reshape(len(node), -1))
        _add_by(fourier, node, np.cos(_angles(block, frequencies, phases)))
    return _Sums(
        count.reshape(nodes, classes),
        first.reshape(nodes, classes, dims),
        second.reshape(nodes, dims, dims),
        fourier * np.sqrt(2.0 / _FOURIER),
    )


def _blocks(rows: int) -> Iterator[tuple[int, int]]:
    for low in range(0, rows, _BLOCK):
        yield low, min(rows, low + _BLOCK)


def _add_by(totals: Floats, key: NDArray[np.int64], values: Floats) -> None:
    """Add the rows of `values` to the rows of `totals` that `key` names."""
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    totals[ordered[starts]] += np.add.reduceat(values[order], starts, axis=0)


def _fourier_basis(dims: int) -> tuple[Floats, Floats]:
    """Return frequencies (d, 64) and phases (64,) for a Gaussian kernel of width sqrt(d).

    Standardised features have a root mean square distance of sqrt(2 d), so this is about the median heuristic.
    """
    seed = derive_seed(purpose="random Fourier features")
    draws = uniforms(seed, np.arange((2 * max(1, dims) + 1) * _FOURIER, dtype=np.int64)).reshape(-1, _FOURIER)
    radius = np.sqrt(-2.0 * np.log1p(-draws[:dims]))  # Box-Muller
    normal = radius * np.cos(2 * np.pi * draws[dims : 2 * dims])
    return normal / np.sqrt(max(1, dims)), 2 * np.pi * draws[-1]


def _angles(block: Floats, frequencies: Floats, phases: Floats) -> Floats:
    # Column by column instead of a matrix product: BLAS may add in another order with other threads.
    angles = np.repeat(phases[None], len(block), axis=0)
    for column in range(block.shape[1]):
        angles += block[:, column, None] * frequencies[column]
    return angles


def _label_measures(sums: _Sums, sizes: Floats) -> dict[str, float]:
    share = sums.count / sizes[:, None]
    overall = sums.count.sum(axis=0) / sizes.sum()
    weight = sizes / sizes.sum()
    distance = np.abs(share - overall).sum(axis=1) / 2
    middle = (share + overall) / 2
    js = (_relative_entropy(share, middle) + _relative_entropy(np.broadcast_to(overall, share.shape), middle)) / 2
    return {
        "label_tv": float(weight @ distance),
        "label_tv_max": float(distance.max()),
        "label_js": float(weight @ js),
        "label_tv_scaled": float(weight @ (distance * np.sqrt(sizes))),
        "missing_classes": float((sums.count == 0).mean()),
        "min_class_count": float(np.log1p(sums.count.min())),
    }


def _relative_entropy(first: Floats, second: Floats) -> Floats:
    ratio = np.where(first > 0, first, 1.0) / np.where(first > 0, second, 1.0)
    return (first * np.log2(ratio)).sum(axis=1)


def _size_measures(sizes: Floats) -> dict[str, float]:
    return {
        "size_cv": float(sizes.std() / sizes.mean()),
        "min_share": float(sizes.min() / sizes.mean()),
    }


def _moment_measures(sums: _Sums, sizes: Floats) -> dict[str, float]:
    weight = sizes / sizes.sum()
    means = sums.first.sum(axis=1) / sizes[:, None]
    mean = sums.first.sum(axis=(0, 1)) / sizes.sum()
    covariance = sums.second / sizes[:, None, None] - means[:, :, None] * means[:, None, :]
    overall = sums.second.sum(axis=0) / sizes.sum() - mean[:, None] * mean[None, :]
    spread = _deviations(overall[None])[0]
    spreads = _deviations(covariance)
    shift = np.abs(means - mean) / spread
    floor = 0.05  # a column constant on one node would otherwise dominate with an unbounded logarithm
    ratio = np.abs(np.log((spreads / spread + floor) / (1 + floor)))
    correlation = covariance / (spreads[:, :, None] * spreads[:, None, :])
    turned = np.abs(correlation - overall / np.outer(spread, spread))
    inside = np.where(sums.count > 0, sums.count, 1.0)
    per_class = np.where(sums.count > 0, sums.count, 0.0) / sums.count.sum()
    expected = sums.first.sum(axis=0) / sums.count.sum(axis=0)[:, None]
    conditional = (np.abs(sums.first / inside[:, :, None] - expected) / spread).mean(axis=2)
    return {
        "mean_difference": float(weight @ shift.mean(axis=1)),
        "mean_difference_max": float(shift.max()),
        "std_ratio": float(weight @ ratio.mean(axis=1)),
        "correlation_difference": float(weight @ turned.mean(axis=(1, 2))),
        "conditional_shift": float((per_class * conditional).sum()),
    }


def _deviations(covariance: Floats) -> Floats:
    """Return (K, d) standard deviations of (K, d, d) covariances; tiny ones become 1, their features carry nothing."""
    variance = np.diagonal(covariance, axis1=1, axis2=2)
    return np.where(variance > 1e-12, np.sqrt(np.clip(variance, 1e-12, None)), 1.0)  # noqa: PLR2004 - rounding noise


def _fourier_measures(sums: _Sums, sizes: Floats) -> dict[str, float]:
    weight = sizes / sizes.sum()
    overall = sums.fourier.sum(axis=0) / sizes.sum()
    squared = ((sums.fourier / sizes[:, None] - overall) ** 2).sum(axis=1)
    # A Gaussian kernel has k(x, x) = 1, so 1 - |mean embedding|^2 is the embedding's variance over rows.
    variance = max(1e-12, 1.0 - float((overall**2).sum()))
    return {
        "mmd": float(weight @ np.sqrt(squared)),
        "mmd_scaled": float(np.log1p(weight @ (squared * sizes) / variance)),
    }


def _centroid_measures(sums: _Sums, queries: Floats) -> dict[str, float]:
    """Agreement of each node's nearest-centroid model (unit variance, the node's class shares as prior)."""
    nodes, classes = sums.count.shape
    answers = np.zeros((nodes, len(queries), classes))
    for node in range(nodes):
        present = np.flatnonzero(sums.count[node])
        centres = sums.first[node, present] / sums.count[node, present, None]
        distance = ((queries[:, None, :] - centres[None]) ** 2).sum(axis=2)
        logits = np.log(sums.count[node, present]) - distance / 2
        likelihood = np.exp(logits - logits.max(axis=1, keepdims=True))
        answers[node][:, present] = likelihood / likelihood.sum(axis=1, keepdims=True)
    pairs = [1 - np.abs(answers[i + 1 :] - answers[i]).sum(axis=2).mean(axis=1) / 2 for i in range(nodes - 1)]
    values = np.concatenate(pairs) if pairs else np.ones(1)
    return {"centroid_agreement": float(values.mean()), "centroid_agreement_min": float(values.min())}
