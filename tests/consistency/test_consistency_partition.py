"""The partition sketch measures what it says: against brute force, at its extremes and under relabelling."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshard.consistency import bundled_tasks, partition_sketch
from foreshard.consistency import partition as module
from foreshard.consistency.partition import SKETCH_FEATURES
from foreshard.errors import PlanError

UNIT = (
    "label_tv",
    "label_tv_max",
    "label_js",
    "missing_classes",
    "min_share",
    "centroid_agreement",
    "centroid_agreement_min",
)


def draw(rows=240, nodes=3, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, 3)).astype(np.float32)
    labels = rng.integers(0, classes, rows).astype(np.int32)
    node_of = rng.integers(0, nodes, rows).astype(np.int32)
    node_of[:nodes] = np.arange(nodes)
    features[node_of == 0] += np.float32(0.7)
    return features, labels, node_of


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(5, 120), st.integers(0, 10_000))
def test_figures_are_finite_and_within_their_ranges(nodes, classes, rows, seed):
    sketch = partition_sketch(*draw(rows, nodes, classes, seed), nodes)
    assert tuple(sorted(sketch)) == tuple(sorted(SKETCH_FEATURES))
    assert all(math.isfinite(value) and value >= -1e-9 for value in sketch.values())
    assert all(sketch[name] <= 1 + 1e-9 for name in UNIT)


@settings(deadline=None)
@given(st.permutations(range(3)))
def test_figures_do_not_depend_on_the_names_of_nodes(order):
    features, labels, node_of = draw()
    renamed = np.array(order, np.int32)[node_of]
    assert partition_sketch(features, labels, renamed, 3) == pytest.approx(
        partition_sketch(features, labels, node_of, 3), rel=1e-9, abs=1e-9
    )


def test_figures_add_up_over_blocks_of_rows(monkeypatch):
    data = draw()
    whole = partition_sketch(*data, 3)
    monkeypatch.setattr(module, "_BLOCK", 7)
    assert partition_sketch(*data, 3) == pytest.approx(whole, rel=1e-9, abs=1e-9)


def test_equal_nodes_differ_in_nothing():
    features, labels, _ = draw(80)
    sketch = partition_sketch(np.tile(features, (3, 1)), np.tile(labels, 3), np.repeat(np.arange(3), 80), 3)
    for name in ("label_tv", "label_js", "mean_difference", "std_ratio", "mmd", "conditional_shift", "size_cv"):
        assert sketch[name] == pytest.approx(0, abs=1e-6), name
    assert sketch["centroid_agreement"] == pytest.approx(1)
    assert sketch["min_share"] == 1


def test_label_figures_of_disjoint_classes_are_at_their_extremes():
    labels = np.repeat(np.arange(2, dtype=np.int32), 50)
    features = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    sketch = partition_sketch(features, labels, labels, 2)
    assert sketch["label_tv"] == sketch["label_tv_max"] == 0.5
    assert sketch["label_tv_scaled"] == pytest.approx(0.5 * math.sqrt(50))
    # Jensen-Shannon between (1, 0) and (1/2, 1/2), in bits.
    assert sketch["label_js"] == pytest.approx((math.log2(4 / 3) + 0.5 * math.log2(2 / 3) + 0.5) / 2)
    assert sketch["missing_classes"] == 0.5
    assert sketch["centroid_agreement"] == 0
    assert sketch["min_class_count"] == 0


def test_moments_match_brute_force():
    features, labels, node_of = draw()
    sketch = partition_sketch(features, labels, node_of, 3)
    values = features.astype(np.float64)
    parts = [values[node_of == k] for k in range(3)]
    weight = np.array([len(part) for part in parts]) / len(values)
    shift = np.array([np.abs(p.mean(axis=0) - values.mean(axis=0)) / values.std(axis=0) for p in parts])
    assert sketch["mean_difference"] == pytest.approx(weight @ shift.mean(axis=1))
    assert sketch["mean_difference_max"] == pytest.approx(shift.max())
    turned = [np.abs(np.corrcoef(p.T) - np.corrcoef(values.T)).mean() for p in parts]
    assert sketch["correlation_difference"] == pytest.approx(weight @ turned)
    sizes = weight * len(values)
    assert sketch["size_cv"] == pytest.approx(sizes.std() / sizes.mean())
    conditional = 0.0
    for k in range(3):
        for c in range(4):
            cell = (node_of == k) & (labels == c)
            gap = np.abs(values[cell].mean(axis=0) - values[labels == c].mean(axis=0)) / values.std(axis=0)
            conditional += cell.mean() * gap.mean()
    assert sketch["conditional_shift"] == pytest.approx(conditional)


def test_mmd_approximates_the_exact_kernel():
    features, labels, node_of = draw(400, seed=3)
    values = features.astype(np.float64)
    kernel = np.exp(-((values[:, None] - values[None]) ** 2).sum(axis=2) / (2 * values.shape[1]))
    exact = 0.0
    for k in range(3):
        weights = (node_of == k) / (node_of == k).sum() - 1 / len(values)
        exact += (node_of == k).mean() * math.sqrt(weights @ kernel @ weights)
    assert partition_sketch(features, labels, node_of, 3)["mmd"] == pytest.approx(exact, rel=0.2)


def test_random_partitions_keep_a_scaled_mmd_of_about_one_whatever_their_size():
    rng = np.random.default_rng(4)
    found = []
    for rows in (200, 20_000):
        features = rng.normal(size=(rows, 4)).astype(np.float32)
        labels = rng.integers(0, 2, rows).astype(np.int32)
        sketch = partition_sketch(features, labels, rng.integers(0, 4, rows).astype(np.int32), 4)
        found.append(math.expm1(sketch["mmd_scaled"]))
    assert found == pytest.approx([0.75, 0.75], abs=0.3)  # (K - 1) / K, as the mean is over the nodes themselves


def test_sorting_real_data_by_label_shows_in_every_figure():
    features, codes = next((task.features, task.labels) for task in bundled_tasks() if task.name == "iris")
    mixed = partition_sketch(features, codes, (np.arange(150) % 3).astype(np.int32), 3)
    sorted_ = partition_sketch(features, codes, (np.arange(150) // 50).astype(np.int32), 3)
    for name in ("label_tv", "label_js", "mmd", "mean_difference", "missing_classes", "correlation_difference"):
        assert sorted_[name] > 2 * mixed[name], name
    assert sorted_["centroid_agreement"] == 0
    assert mixed["centroid_agreement"] > 0.8


@pytest.mark.parametrize(
    ("node_of", "nodes", "message"),
    [
        ([0, 1], 2, "places 2 rows, the data has 3"),
        ([0, 1, 2], 2, r"uses nodes 0..2; there are 0..1"),
        ([0, -1, 0], 2, r"uses nodes -1..0"),
        ([0, 0, 2], 3, r"nodes \[1\] have no rows"),
    ],
)
def test_partitions_that_do_not_fit_are_refused(node_of, nodes, message):
    features, labels = np.zeros((3, 1), np.float32), np.zeros(3, np.int32)
    with pytest.raises(PlanError, match=message):
        partition_sketch(features, labels, np.array(node_of, np.int32), nodes)


@pytest.mark.parametrize("shape", [(0, 2), (3, 0), (2, 2)])
def test_features_that_do_not_fit_are_refused(shape):
    labels = np.zeros(0 if not shape[0] else 3, np.int32)
    with pytest.raises(PlanError, match="features have shape"):
        partition_sketch(np.zeros(shape, np.float32), labels, np.zeros(len(labels), np.int32), 1)
