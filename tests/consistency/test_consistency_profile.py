"""The profile says what the data are like: moments, categories, correlations and meta-features."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshard.consistency import DatasetProfile, correlation_plot, profile_dataset
from foreshard.consistency.metafeatures import METAFEATURES, metafeatures
from foreshard.errors import CorruptDataError, SourceError


@pytest.fixture(scope="module")
def iris():
    from sklearn.datasets import load_iris

    values, labels = load_iris(return_X_y=True)
    names = ("sepal_length", "sepal_width", "petal_length", "petal_width")
    species = [("setosa", "versicolor", "virginica")[label] for label in labels]
    return pa.table({**{name: values[:, i] for i, name in enumerate(names)}, "species": species})


def test_a_profile_describes_real_columns(iris):
    profile = profile_dataset(iris, "species", rows=150_000)
    by_name = {column["name"]: column for column in profile.columns}
    assert profile.rows == 150_000
    width = iris.column("petal_width").to_numpy()
    found = by_name["petal_width"]
    assert found["mean"] == pytest.approx(width.mean())
    assert found["std"] == pytest.approx(width.std())
    assert found["skew"] == pytest.approx((((width - width.mean()) / width.std()) ** 3).mean())
    assert found["quantiles"]["0.5"] == pytest.approx(np.median(width))
    assert found["quantiles"]["1.0"] == width.max()
    assert by_name["species"]["distinct"] == 3
    assert by_name["species"]["top"][0] == ["setosa", pytest.approx(1 / 3)]
    assert by_name["species"]["target"]
    assert not found["target"]
    pairs = {(pair["a"], pair["b"]): pair["r"] for pair in profile.correlations}
    assert pairs["petal_length", "petal_width"] == pytest.approx(0.9629, abs=1e-4)
    strength = [abs(pair["r"]) for pair in profile.correlations]
    assert len(pairs) == 10
    assert strength == sorted(strength, reverse=True)


def test_metafeatures_of_iris_are_those_known_of_it(iris):
    features = profile_dataset(iris, "species").features
    assert tuple(sorted(features)) == tuple(sorted(METAFEATURES))
    assert features["classes"] == 3
    assert features["class_entropy"] == pytest.approx(1.0)
    assert features["class_imbalance"] == 0
    assert features["correlation_max"] == pytest.approx(0.9629, abs=1e-4)
    assert features["label_autocorrelation"] > 0.9  # the file is sorted by species
    assert features["label_drift"] == pytest.approx(2 / 3)
    assert features["landmark_centroid"] > 0.8
    assert 0.4 < features["landmark_stump"] < 0.75  # one split cannot tell three species apart
    assert features["landmark_tree"] > 0.9


def test_shuffled_rows_lose_their_order_dependence_only(iris):
    order = np.random.default_rng(0).permutation(150)
    features = profile_dataset(iris, "species").features
    shuffled = profile_dataset(iris.take(order), "species").features
    assert abs(shuffled["label_autocorrelation"]) < 0.2
    assert shuffled["feature_drift"] < features["feature_drift"] / 3
    for name in ("correlation_mean", "association_mean", "principal_share", "effective_dimension", "skew_mean"):
        assert shuffled[name] == pytest.approx(features[name], rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 5), st.integers(0, 1000))
def test_metafeatures_are_finite_and_bounded_for_any_shape(rows, dims, classes, seed):
    rng = np.random.default_rng(seed)
    features = rng.integers(-2, 3, (rows, dims)).astype(np.float32)
    found = metafeatures(features, rng.integers(0, classes, rows).astype(np.int32))
    assert tuple(sorted(found)) == tuple(sorted(METAFEATURES))
    assert all(math.isfinite(value) for value in found.values())
    for name in ("class_entropy", "correlation_max", "principal_share", "association_max", "label_drift"):
        assert -1e-9 <= found[name] <= 1 + 1e-9, name
    assert all(0 <= found[name] <= 1 for name in METAFEATURES if name.startswith("landmark"))


def test_a_profile_survives_json(iris):
    profile = profile_dataset(iris, "species")
    assert DatasetProfile.from_json(profile.to_json()) == profile


def test_a_profile_of_columns_without_values_is_still_json():
    table = pa.table({"x": [1.0, 2.0, 1e308], "none": pa.nulls(3, pa.float64()), "n": pa.nulls(3), "y": [0, 1, 0]})
    profile = profile_dataset(table, "y")
    assert {column["name"]: column["nulls"] for column in profile.columns} == {"x": 0, "none": 1, "n": 1, "y": 0}
    assert DatasetProfile.from_json(profile.to_json()) == profile


@pytest.mark.parametrize("text", ["{", '{"rows": 3}', "[]"])
def test_text_that_is_no_profile_is_refused(text):
    with pytest.raises(CorruptDataError, match="not a dataset profile"):
        DatasetProfile.from_json(text)


def test_a_missing_target_is_named(iris):
    with pytest.raises(SourceError, match="target column 'kind' is missing; the table has sepal_length"):
        profile_dataset(iris, "kind")


def test_a_total_below_the_sample_is_refused(iris):
    with pytest.raises(SourceError, match="rows is 10, but the sample alone has 150"):
        profile_dataset(iris, "species", rows=10)


def test_the_correlation_plot_is_a_small_png(iris):
    raw = correlation_plot(profile_dataset(iris, "species"))
    assert raw.startswith(b"\x89PNG")
    assert 2_000 < len(raw) < 30_000


def test_the_correlation_plot_of_many_columns_stays_small():
    rng = np.random.default_rng(0)
    table = pa.table({f"a_rather_long_name_{i}": rng.normal(size=50) for i in range(30)} | {"y": [0, 1] * 25})
    assert len(correlation_plot(profile_dataset(table, "y"))) < 30_000
