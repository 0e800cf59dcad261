"""Feature sketch: a few standardised numbers per row that strategies, trials and scores share."""

from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.consistency.columns import class_codes, kind_of, numbers, standardise
from foreshard.consistency.sampling import spread_sample
from foreshard.errors import ConfigError, SourceError
from foreshard.seeding import derive_seed

MAX_FEATURES: Final = 8
_CHOICE_ROWS: Final = 20_000


def feature_sketch(
    table: pa.Table, target: str, *, max_features: int = MAX_FEATURES
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return a standardised numeric sketch of the features, and class codes of the target.

    At most `max_features` columns are kept, chosen greedily for the most information on the label and the least
    overlap with those already chosen (mRMR: Peng, Long and Ding, TPAMI 2005, with correlation ratio and |r| in place
    of mutual information). Nulls get the column's mean; constant and non-numeric ("other") columns are left out.

    Args:
        table: n rows.
        target: the label column; see `columns.class_codes` for continuous targets.
        max_features: at most this many columns, at least 1.

    Returns:
        (n, d) float32 in column order, d >= 1, within [-5, 5]; (n,) int32 codes from 0.

    Raises:
        SourceError: no such target column, no row, nulls in the target, or no usable feature column.
        ConfigError: `max_features` is below 1.
    """
    if max_features < 1:
        raise ConfigError(f"max_features is {max_features}; a sketch needs at least 1")
    labels = target_codes(table, target)
    positions = spread_sample(len(labels), _CHOICE_ROWS, derive_seed(purpose="feature choice"))
    names: list[str] = []
    samples: list[NDArray[np.float32]] = []
    for field in table.schema:
        if field.name == target or kind_of(field.type) == "other":
            continue
        encoded = _encoded(table, field.name)
        if encoded is not None:
            names.append(field.name)
            samples.append(encoded[positions])
    if not names:
        raise SourceError(
            f"no column beside the target {target!r} varies and is a number, date or category; "
            f"the table has {', '.join(table.schema.names)}"
        )
    chosen = choose_features(np.stack(samples, axis=1), labels[positions], max_features)
    kept = [_encoded(table, names[i]) for i in sorted(chosen)]
    return np.stack([column for column in kept if column is not None], axis=1), labels


def target_codes(table: pa.Table, target: str) -> NDArray[np.int32]:
    """Return the class codes of a table's target column.

    Raises:
        SourceError: no such column, no row, or values without classes.
    """
    if target not in table.schema.names:
        raise SourceError(f"target column {target!r} is missing; the table has {', '.join(table.schema.names)}")
    if not table.num_rows:
        raise SourceError("the table has no row; there is nothing to profile")
    return class_codes(table.column(target), target)


def choose_features(features: NDArray[np.float32], labels: NDArray[np.int32], count: int) -> list[int]:
    """Return the positions of at most `count` columns of (n, d) features, most useful first."""
    relevance = correlation_ratio(features.astype(np.float64), labels)
    overlap = np.abs(correlations(features.astype(np.float64)))
    chosen = [int(np.argmax(relevance))]
    while len(chosen) < min(count, features.shape[1]):
        gain = relevance * (1 - overlap[:, chosen].mean(axis=1))
        gain[chosen] = -np.inf
        chosen.append(int(np.argmax(gain)))
    return chosen


def correlation_ratio(features: NDArray[np.float64], labels: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return, per column, the share of its variance that lies between classes (eta squared, in [0, 1])."""
    counts = np.bincount(labels).astype(np.float64)
    centred = features - features.mean(axis=0)
    result = np.zeros(features.shape[1])
    for column in range(features.shape[1]):
        sums = np.bincount(labels, weights=centred[:, column])
        between = float((sums[counts > 0] ** 2 / counts[counts > 0]).sum())
        total = float((centred[:, column] ** 2).sum())
        result[column] = min(1.0, between / total) if total > 0 else 0.0
    return result


def correlations(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (d, d) Pearson correlations; 0 where a column is constant, 1 on the diagonal."""
    centred = features - features.mean(axis=0)
    norms = np.sqrt((centred**2).sum(axis=0))
    scaled = centred / np.where(norms > 0, norms, 1.0)
    matrix = np.clip(np.einsum("ni,nj->ij", scaled, scaled), -1.0, 1.0)
    np.fill_diagonal(matrix, 1.0)
    return matrix


def _encoded(table: pa.Table, name: str) -> NDArray[np.float32] | None:
    column = table.column(name)
    return standardise(numbers(column, kind_of(column.type)))
