"""Dataset profile: size, distributions, correlations and skew of a snapshot, as people and the predictor read them."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.consistency.columns import Column, as_floats, category_ranks, kind_of, numbers, standardise
from foreshard.consistency.metafeatures import metafeatures
from foreshard.consistency.sampling import spread_sample
from foreshard.consistency.sketch import correlations, feature_sketch
from foreshard.errors import CorruptDataError, SourceError
from foreshard.seeding import derive_seed

_QUANTILES: Final = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_TOP_CATEGORIES: Final = 5
_CORRELATED_COLUMNS: Final = 20
_CORRELATED_ROWS: Final = 50_000
_CATEGORIES_READABLE: Final = 100
"""Length at which a category's text is cut: metadata stays small."""


@dataclass(frozen=True)
class DatasetProfile:
    """What is known of a dataset without training on it.

    Attributes:
        rows: rows of the whole dataset.
        target: the label column.
        features: `metafeatures.METAFEATURES` of the feature sketch, by name.
        columns: one record per column: name, type, kind, nulls (share), target (bool); mean, std, skew, kurtosis and
            quantiles of numbers; distinct and top categories.
        correlations: Pearson r of each pair among the first 20 sketchable columns (on at most 50,000 rows): a, b, r;
            strongest first.
    """

    rows: int
    target: str
    features: dict[str, float]
    columns: list[dict[str, Any]]
    correlations: list[dict[str, Any]]

    def to_json(self) -> str:
        """Return the profile as JSON text."""
        return json.dumps(asdict(self), indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> "DatasetProfile":
        """Rebuild a profile from `to_json`'s output.

        Raises:
            CorruptDataError: the text is not a profile.
        """
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise CorruptDataError(f"this is not a dataset profile: {error}; profile the dataset again") from error


def profile_dataset(table: pa.Table, target: str, *, rows: int | None = None) -> DatasetProfile:
    """Profile a dataset from a table of its rows.

    Args:
        table: the rows, or a sample of them in the dataset's order.
        target: the label column.
        rows: rows of the whole dataset, where `table` is a sample.

    Raises:
        SourceError: no such target, nulls in it, no row, no usable feature, or `rows` smaller than the table.
    """
    features, labels = feature_sketch(table, target)
    total = table.num_rows if rows is None else rows
    if total < table.num_rows:
        raise SourceError(f"rows is {total}, but the sample alone has {table.num_rows}; give the whole dataset's rows")
    columns = [_describe(field, table.column(field.name), target) for field in table.schema]
    return DatasetProfile(total, target, metafeatures(features, labels), columns, _pairs(table))


def _describe(field: "pa.Field[Any]", column: Column, target: str) -> dict[str, Any]:
    kind = kind_of(field.type)
    record: dict[str, Any] = {
        "name": field.name,
        "type": str(field.type),
        "kind": kind,
        "nulls": column.null_count / len(column),
        "target": field.name == target,
    }
    if kind == "category":
        categories = category_ranks(column)[1]
        top = categories.slice(0, _TOP_CATEGORIES).to_pylist()
        record["distinct"] = categories.num_rows
        record["top"] = [[str(item["value"])[:_CATEGORIES_READABLE], item["count"] / len(column)] for item in top]
    elif kind != "other":
        values = as_floats(column)
        record |= _moments(values[np.isfinite(values)])
    return record


def _moments(values: NDArray[np.float64]) -> dict[str, Any]:
    if not len(values):
        return {}
    scale = float(np.abs(values).max()) or 1.0
    scaled = values / scale  # powers of huge values would overflow
    mean, spread = float(scaled.mean()), float(scaled.std())
    z = (scaled - mean) / spread if spread > 0 else np.zeros(len(values))
    return {
        "mean": mean * scale,
        "std": spread * scale,
        "skew": float((z * z * z).mean()),
        "kurtosis": float((z * z * z * z).mean()),
        "quantiles": dict(zip(map(str, _QUANTILES), np.quantile(values, _QUANTILES).tolist(), strict=True)),
    }


def _pairs(table: pa.Table) -> list[dict[str, Any]]:
    rows = spread_sample(table.num_rows, _CORRELATED_ROWS, derive_seed(purpose="correlations"))
    names: list[str] = []
    values: list[NDArray[np.float32]] = []
    for field in table.schema:
        if len(names) == _CORRELATED_COLUMNS:
            break
        kind = kind_of(field.type)
        encoded = None if kind == "other" else standardise(numbers(table.column(field.name), kind))
        if encoded is not None:
            names.append(field.name)
            values.append(encoded[rows])
    if not names:
        return []
    matrix = correlations(np.stack(values, axis=1).astype(np.float64))
    pairs = [
        {"a": names[i], "b": names[j], "r": round(float(matrix[i, j]), 6)}
        for i in range(len(names))
        for j in range(i + 1, len(names))
    ]
    return sorted(pairs, key=lambda pair: (-abs(float(pair["r"])), pair["a"], pair["b"]))
