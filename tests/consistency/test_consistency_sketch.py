"""Columns become finite, standardised numbers and dense class codes; samples keep the row order."""

import datetime as dt
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshard.consistency import feature_sketch
from foreshard.consistency.columns import category_ranks, class_codes
from foreshard.consistency.sampling import split_holdout, spread_sample
from foreshard.consistency.sketch import choose_features, correlation_ratio, correlations
from foreshard.errors import ConfigError, SourceError

SEED = b"sixteen byte key"


@settings(deadline=None)
@given(st.integers(0, 5_000), st.integers(1, 600))
def test_a_spread_sample_takes_one_row_of_each_stretch_in_order(n, rows):
    positions = spread_sample(n, rows, SEED)
    assert len(positions) == min(n, rows)
    assert (np.diff(positions) > 0).all()
    if n > rows:
        stretch = np.searchsorted(np.arange(rows + 1) * n // rows, positions, side="right") - 1
        assert stretch.tolist() == list(range(rows))


def test_a_spread_sample_does_not_fall_into_step_with_a_period():
    labels = np.arange(100_000) % 100
    seen = np.bincount(labels[spread_sample(100_000, 1_000, SEED)], minlength=100)
    assert (seen > 0).all()


def test_a_sample_of_no_rows_is_refused():
    with pytest.raises(ConfigError, match="sample of 0 rows"):
        spread_sample(10, 0, SEED)


@settings(deadline=None)
@given(st.integers(0, 2_000))
def test_the_holdout_is_a_third_and_disjoint(n):
    train, held = split_holdout(n, SEED)
    assert len(held) == n // 3
    assert np.array_equal(np.sort(np.concatenate([train, held])), np.arange(n))


def test_a_sketch_is_standardised_and_fills_nulls_with_the_mean():
    table = pa.table({"x": [1.0, 2.0, None, 3.0, math.nan, math.inf], "y": [0, 1, 0, 1, 0, 1]})
    features, labels = feature_sketch(table, "y")
    edge = math.sqrt(1.5)
    assert np.allclose(features[:, 0], [-edge, 0, 0, edge, 0, 0])
    assert features.dtype == np.float32
    assert labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert labels.dtype == np.int32


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.floats(width=64)), min_size=4, max_size=40),
    st.lists(st.one_of(st.none(), st.sampled_from(["a", "b", "c", ""])), min_size=40, max_size=40),
)
def test_whatever_the_columns_hold_a_sketch_is_finite_and_bounded(numbers, words):
    rows = len(numbers)
    table = pa.table(
        {
            "number": pa.array(numbers, pa.float64()),
            "word": pa.array(words[:rows], pa.string()),
            "position": list(range(rows)),
            "target": [i % 3 for i in range(rows)],
        }
    )
    features, labels = feature_sketch(table, "target")
    assert np.isfinite(features).all()
    assert np.abs(features).max() <= 5
    assert features.shape[0] == len(labels) == rows
    again, _ = feature_sketch(table, "target")
    assert features.tobytes() == again.tobytes()


def test_every_usable_type_enters_and_others_are_left_out():
    rows = 12
    day = dt.date(2013, 1, 1)
    columns = {
        "flag": [i % 2 == 0 for i in range(rows)],
        "small": pa.array(range(rows), pa.int8()),
        "day": [day + dt.timedelta(days=i * i) for i in range(rows)],
        "time": pa.array([i**3 for i in range(rows)], pa.timestamp("us")),
        "word": ["abc"[i % 3] for i in range(rows)],
        "coded": pa.array([["u", "v", "v"][i % 3] for i in range(rows)]).dictionary_encode(),
        "list": [[i] for i in range(rows)],
        "blob": [bytes([i]) for i in range(rows)],
        "constant": [7] * rows,
        "empty": pa.nulls(rows, pa.float64()),
    }
    table = pa.table({**columns, "y": [i // 6 for i in range(rows)]})
    features, _ = feature_sketch(table, "y")
    assert features.shape == (rows, 6)
    assert feature_sketch(table, "y", max_features=2)[0].shape == (rows, 2)


def test_chunked_and_dictionary_columns_give_the_same_sketch():
    words = ["b", "a", "b", None, "c", "b", "a", "c"]
    plain = pa.table({"w": pa.array(words), "y": [0, 1] * 4})
    chunks = [pa.array(words[:3]).dictionary_encode(), pa.array(words[3:]).dictionary_encode()]
    coded = pa.table({"w": pa.chunked_array(chunks), "y": [0, 1] * 4})
    assert np.array_equal(feature_sketch(plain, "y")[0], feature_sketch(coded, "y")[0])


def test_categories_rank_by_frequency_then_value():
    ranks, categories = category_ranks(pa.chunked_array([["z", "y", None], ["z", "x"]]))
    assert ranks.tolist() == [0, 2, -1, 0, 1]
    assert categories.to_pydict() == {"value": ["z", "x", "y"], "count": [2, 1, 1]}


def test_the_informative_columns_are_chosen_without_their_copies():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 500).astype(np.int32)
    signal = labels + rng.normal(0, 0.5, 500)
    weaker = labels + rng.normal(0, 1.0, 500)
    features = np.stack([rng.normal(size=500), signal, signal * 2, weaker], axis=1).astype(np.float32)
    assert choose_features(features, labels, 2) == [1, 3]


def test_association_and_correlation_match_their_definitions():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(80, 3))
    values[:, 2] = 5.0
    labels = rng.integers(0, 4, 80).astype(np.int32)
    means = np.array([values[labels == c].mean(axis=0) for c in range(4)])[labels]
    expected = means.var(axis=0)[:2] / values.var(axis=0)[:2]
    assert np.allclose(correlation_ratio(values, labels)[:2], expected)
    assert correlation_ratio(values, labels)[2] == 0
    matrix = correlations(values)
    assert np.allclose(matrix[:2, :2], np.corrcoef(values[:, :2].T))
    assert matrix[2].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("column", "codes"),
    [
        (pa.array([7, -1, 7, 3]), [2, 0, 2, 1]),
        (pa.array([True, False, True]), [1, 0, 1]),
        (pa.array(["b", "a", "b", "b"]), [1, 0, 1, 1]),
        (pa.array([2.0, 0.0, 2.0]), [1, 0, 1]),
        (pa.array(["b", "a"]).dictionary_encode(), [1, 0]),
    ],
)
def test_discrete_targets_are_coded_in_order_of_value(column, codes):
    assert class_codes(pa.chunked_array([column]), "y").tolist() == codes


def test_continuous_targets_become_quartiles():
    values = np.random.default_rng(2).lognormal(size=400)
    codes = class_codes(pa.chunked_array([values]), "y")
    assert np.bincount(codes).tolist() == [100, 100, 100, 100]
    assert values[codes == 0].max() < values[codes == 1].min()
    assert np.bincount(class_codes(pa.chunked_array([pa.array(range(400))]), "y")).tolist() == [100] * 4
    assert set(class_codes(pa.chunked_array([[0.0] * 60 + [0.5] * 40]), "y").tolist()) == {0, 1}


def test_rare_categories_of_a_target_share_a_class():
    words = [f"w{i:03d}" for i in range(80)] + [f"w{i:03d}" for i in range(49)]
    codes = class_codes(pa.chunked_array([words]), "y")
    assert codes.max() == 49
    assert (codes == 49).sum() == 31


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"x": [1, 2]}), "target column 'y' is missing; the table has x"),
        (pa.table({"x": pa.array([], pa.int64()), "y": pa.array([], pa.int64())}), "no row"),
        (pa.table({"x": [1, 2], "y": [0, None]}), "'y' has 1 nulls"),
        (pa.table({"x": [1, 2], "y": [0.5, math.nan]}), "'y' has 1 nulls"),
        (pa.table({"x": [1, 2], "y": [[0], [1]]}), "'y' has type list"),
        (pa.table({"x": [1, 1], "b": [b"a", b"b"], "y": [0, 1]}), "no column beside the target 'y' varies"),
    ],
)
def test_unusable_tables_are_refused_by_name(table, message):
    with pytest.raises(SourceError, match=message):
        feature_sketch(table, "y")


def test_a_sketch_of_no_features_is_refused():
    with pytest.raises(ConfigError, match="max_features is 0"):
        feature_sketch(pa.table({"x": [1, 2], "y": [0, 1]}), "y", max_features=0)
