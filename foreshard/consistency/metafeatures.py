"""Meta-features: what about a dataset, apart from any partition, decides how consistent training on it can be.

The list is research/optimise.md §1.3. It holds two of the specification's three factors, feature correlation and data
skew (the third, seed sensitivity, needs a learner: `measure.probe`), and row-order dependence, which decides how
range partitions do.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from foreshard.consistency.sampling import learner_seed, spread_sample
from foreshard.consistency.sketch import correlation_ratio, correlations
from foreshard.seeding import derive_seed, row_keys

METAFEATURES: Final = (
    "features",
    "classes",
    "class_entropy",
    "class_imbalance",
    "correlation_mean",
    "correlation_max",
    "principal_share",
    "effective_dimension",
    "skew_mean",
    "log_kurtosis",
    "association_mean",
    "association_max",
    "label_autocorrelation",
    "feature_drift",
    "label_drift",
    "landmark_centroid",
    "landmark_neighbour",
    "landmark_stump",
    "landmark_tree",
)

_SAMPLE_ROWS: Final = 1_800
_LANDMARK_ROWS: Final = 300
_FOLDS: Final = 3


def metafeatures(features: NDArray[np.float32], labels: NDArray[np.int32]) -> dict[str, float]:
    """Return the meta-features of a dataset, from at most 1,800 of its rows spread over its whole length.

    The fixed sample keeps large datasets comparable with the small ones that trials run on.

    Args:
        features: shape (n, d), in the dataset's row order.
        labels: shape (n,) class codes.

    Returns:
        `METAFEATURES`; association, autocorrelation, drift of labels, landmarks (cross-validated accuracies of four
        simple classifiers) lie in [-1, 1], counts are counts, `class_imbalance` and `log_kurtosis` natural logarithms.
    """
    positions = spread_sample(len(labels), _SAMPLE_ROWS, derive_seed(purpose="metafeatures"))
    values = features[positions].astype(np.float64)
    codes = np.unique(labels[positions], return_inverse=True)[1].astype(np.int32)
    shares = np.bincount(codes) / len(codes)
    association = correlation_ratio(values, codes)
    result = {
        "features": float(values.shape[1]),
        "classes": float(len(shares)),
        "class_entropy": float(-(shares * np.log2(shares)).sum() / max(1.0, float(np.log2(len(shares))))),
        "class_imbalance": float(np.log(shares.max() / shares.min())),
        "association_mean": float(association.mean()),
        "association_max": float(association.max()),
    }
    return result | _shape(values) | _row_order(values, codes, shares) | _landmarks(values, codes)


def _shape(values: NDArray[np.float64]) -> dict[str, float]:
    matrix = correlations(values)
    others = np.abs(matrix[np.triu_indices(len(matrix), 1)])
    eigenvalues = np.clip(np.linalg.eigvalsh(matrix), 0.0, None)
    centred = values - values.mean(axis=0)
    spread = centred.std(axis=0)
    scaled = centred / np.where(spread > 0, spread, 1.0)
    return {
        "correlation_mean": float(others.mean()) if len(others) else 0.0,
        "correlation_max": float(others.max()) if len(others) else 0.0,
        "principal_share": float(eigenvalues.max() / eigenvalues.sum()),
        # Participation ratio: how many equally strong directions the features amount to.
        "effective_dimension": float(eigenvalues.sum() ** 2 / (eigenvalues**2).sum()),
        "skew_mean": float(np.abs((scaled**3).mean(axis=0)).mean()),
        "log_kurtosis": float(np.log1p((scaled**4).mean(axis=0)).mean()),
    }


def _row_order(values: NDArray[np.float64], codes: NDArray[np.int32], shares: NDArray[np.float64]) -> dict[str, float]:
    chance = float((shares**2).sum())
    same = float((codes[1:] == codes[:-1]).mean()) if len(codes) > 1 else chance
    half = len(codes) // 2
    if not half:
        return {"label_autocorrelation": 0.0, "feature_drift": 0.0, "label_drift": 0.0}
    spread = values.std(axis=0)
    shift = np.abs(values[:half].mean(axis=0) - values[half:].mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    first = np.bincount(codes[:half], minlength=len(shares)) / half
    second = np.bincount(codes[half:], minlength=len(shares)) / (len(codes) - half)
    return {
        "label_autocorrelation": (same - chance) / (1 - chance) if chance < 1 else 0.0,
        "feature_drift": float(shift.mean()),
        "label_drift": float(np.abs(first - second).sum() / 2),
    }


def _landmarks(values: NDArray[np.float64], codes: NDArray[np.int32]) -> dict[str, float]:
    from sklearn.tree import DecisionTreeClassifier

    rows = spread_sample(len(codes), _LANDMARK_ROWS, derive_seed(purpose="landmarks"))
    sample, truth = values[rows], codes[rows]
    keys = row_keys(derive_seed(purpose="landmark folds"), np.arange(len(rows), dtype=np.int64))
    fold = np.argsort(np.argsort(keys, kind="stable"), kind="stable") % _FOLDS
    hits = np.zeros(4)
    for held in range(min(_FOLDS, len(rows))):
        test, train = fold == held, fold != held
        if not train.any():  # a single row: it can only be compared with itself
            train = test
        known = truth[train]
        answers: list[NDArray[np.int32]] = [
            _nearest_centroid(sample[train], known, sample[test]),
            known[_squared_distances(sample[test], sample[train]).argmin(axis=1)],
        ]
        for depth in (1, 3):
            tree: Any = DecisionTreeClassifier(max_depth=depth, random_state=learner_seed(landmark=depth))
            answers.append(np.asarray(tree.fit(sample[train], known).predict(sample[test]), np.int32))
        hits += [float((answer == truth[test]).sum()) for answer in answers]
    names = ("landmark_centroid", "landmark_neighbour", "landmark_stump", "landmark_tree")
    return dict(zip(names, (hits / len(rows)).tolist(), strict=True))


def _nearest_centroid(
    train: NDArray[np.float64], known: NDArray[np.int32], queries: NDArray[np.float64]
) -> NDArray[np.int32]:
    present = np.unique(known)
    centres = np.stack([train[known == code].mean(axis=0) for code in present])
    return present[_squared_distances(queries, centres).argmin(axis=1)].astype(np.int32)


def _squared_distances(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    return ((first[:, None, :] - second[None, :, :]) ** 2).sum(axis=2)
