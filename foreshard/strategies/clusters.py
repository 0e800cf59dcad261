"""Seeded k-means on a feature sketch, in elementwise arithmetic so that every machine finds the same clusters."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.seeding import derive_seed, row_keys, uniforms

_ITERATIONS: Final = 5
_FIT_ROWS: Final = 20_000
_MIN_ROWS_PER_CLUSTER: Final = 8


def cluster_codes(
    features: NDArray[np.float32], sample_ids: NDArray[np.int64], clusters: int, seed: bytes
) -> NDArray[np.int32]:
    """Return the cluster of every row.

    Centres start as in k-means++ (Arthur and Vassilvitskii, SODA 2007) and take a few iterations of Lloyd on at most
    20,000 rows, those with the smallest keys; then every row goes to its nearest centre. Clusters are numbered by
    their centres' coordinates, so that similar clusters tend to be neighbours.

    Args:
        features: shape (m, d); with d = 0 all rows are one cluster.
        sample_ids: shape (m,); keys the choice of rows.
        clusters: how many are wanted; fewer where there are not 8 rows for each or not enough distinct rows.
        seed: 16 bytes.

    Returns:
        Shape (m,), int32 codes from 0.
    """
    rows, dims = features.shape
    wanted = min(clusters, rows // _MIN_ROWS_PER_CLUSTER)
    if wanted < 2 or dims == 0:  # noqa: PLR2004 - one cluster is no clustering
        return np.zeros(rows, np.int32)
    values = features.astype(np.float64)
    chosen = np.argsort(row_keys(seed, sample_ids), kind="stable")[:_FIT_ROWS]
    fit = values[chosen]
    centres = _spread_centres(fit, wanted, seed)
    for _ in range(_ITERATIONS):
        centres = _means(fit, _nearest(fit, centres), centres)
    centres = centres[np.lexsort(centres.T[::-1])]
    return _nearest(values, centres)


def _distances(values: NDArray[np.float64], centre: NDArray[np.float64]) -> NDArray[np.float64]:
    # Column by column instead of a matrix product: BLAS may add in another order with other threads.
    total = np.zeros(len(values))
    for column in range(values.shape[1]):
        total += (values[:, column] - centre[column]) ** 2
    return total


def _nearest(values: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.int32]:
    best = np.full(len(values), np.inf)
    codes = np.zeros(len(values), np.int32)
    for code, centre in enumerate(centres):
        distance = _distances(values, centre)
        closer = distance < best
        best[closer] = distance[closer]
        codes[closer] = code
    return codes


def _spread_centres(values: NDArray[np.float64], clusters: int, seed: bytes) -> NDArray[np.float64]:
    draws = uniforms(derive_seed(purpose="k-means++", seed=seed), np.arange(clusters, dtype=np.int64))
    centres = [values[int(draws[0] * len(values))]]
    distance = _distances(values, centres[0])
    for draw in draws[1:]:
        mass = np.cumsum(distance)
        if mass[-1] <= 0:  # all rows coincide with a centre
            break
        place = min(int(np.searchsorted(mass, draw * mass[-1], side="right")), len(values) - 1)
        centres.append(values[place])
        distance = np.minimum(distance, _distances(values, values[place]))
    return np.array(centres)


def _means(values: NDArray[np.float64], codes: NDArray[np.int32], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    counts = np.bincount(codes, minlength=len(centres))
    moved = centres.copy()
    filled = counts > 0
    for column in range(values.shape[1]):
        sums = np.bincount(codes, weights=values[:, column], minlength=len(centres))
        moved[filled, column] = sums[filled] / counts[filled]
    return moved
