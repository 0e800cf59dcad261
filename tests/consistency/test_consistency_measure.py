"""Measured consistency follows its definitions, lies in [0, 1] and tells good partitions from bad ones."""

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshard.consistency import LEARNERS, bundled_tasks, measure
from foreshard.consistency.learners import Learner, fit_predict
from foreshard.consistency.measure import agreement, probe
from foreshard.errors import ConfigError, PlanError


class Shares:
    """A learner that answers the class shares of its training rows, whose agreement can be worked out by hand."""

    def __init__(self, labels):
        self.shares = np.unique(labels, return_counts=True)[1] / len(labels)

    def predict_proba(self, queries):
        return np.tile(self.shares, (len(queries), 1))


@pytest.fixture
def shares(monkeypatch):
    monkeypatch.setitem(LEARNERS, "shares", Learner(lambda _, labels, __: Shares(labels), lambda _, __: 1))
    return "shares"


@pytest.fixture(scope="module")
def tasks():
    return {task.name: task for task in bundled_tasks()}


def test_consistency_of_known_models_is_what_the_definitions_say(shares):
    labels = np.array([0, 0, 0, 1, 0, 1, 1, 1], np.int32)  # nodes answer 3/4 : 1/4 and 1/4 : 3/4
    features = np.zeros((8, 1), np.float32)
    halves = np.repeat([0, 1], 4).astype(np.int32)
    other = np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int32)  # 3/4 : 1/4 and 1/4 : 3/4 again
    uneven = np.array([0, 0, 0, 0, 0, 0, 1, 1], np.int32)  # 2/3 : 1/3 and 0 : 1
    holdout = (np.zeros((3, 1), np.float32), np.array([0, 0, 1], np.int32))
    same = measure(features, labels, [halves, other], 2, shares, holdout)
    assert same.node == pytest.approx(0.5)
    assert same.seed == pytest.approx(1.0)  # both seeds average to 1/2 : 1/2
    assert same.all == pytest.approx((4 * 0.5 + 2 * 1.0) / 6)
    assert same.eval == pytest.approx(1 - 1 / 3)  # one node is right in 2 of 3, the other in 1
    mixed = measure(features, labels, [halves, uneven], 2, shares, holdout)
    assert mixed.node == pytest.approx((0.5 + 1 / 3) / 2)
    assert mixed.seed == pytest.approx(1.0)  # weighted by rows: 6/8 * 2/3 = 1/2
    pairs = [1 / 2, 1 - 1 / 12, 1 / 4, 1 - 5 / 12, 3 / 4, 1 / 3]
    assert mixed.all == pytest.approx(np.mean(pairs))


def test_a_single_node_agrees_with_itself(shares):
    labels = np.array([0, 1, 0, 1], np.int32)
    features = np.zeros((4, 1), np.float32)
    found = measure(features, labels, [np.zeros(4, np.int32)] * 2, 1, shares, (features, labels))
    assert astuple(found) == (1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize("learner", list(LEARNERS))
@pytest.mark.parametrize("name", ["iris", "wine"])
def test_sorting_by_label_measures_clearly_lower_than_mixing(tasks, name, learner):
    task = tasks[name]
    train, held = np.arange(0, len(task.labels), 2), np.arange(1, len(task.labels), 2)
    labels = task.labels[train]
    ranked = np.argsort(np.argsort(labels, kind="stable"), kind="stable")
    holdout = (task.features[held], task.labels[held])
    worst = (ranked * 3 // len(labels)).astype(np.int32)
    mixed = [((ranked + shift) % 3).astype(np.int32) for shift in (0, 1)]
    low = measure(task.features[train], labels, [worst] * 2, 3, learner, holdout)
    high = measure(task.features[train], labels, mixed, 3, learner, holdout)
    assert high.all - low.all > 0.15
    assert high.node - low.node > 0.25
    assert all(0 <= value <= 1 for value in (*astuple(low), *astuple(high)))


@pytest.mark.parametrize("learner", list(LEARNERS))
def test_learners_learn_and_repeat_exactly(tasks, learner):
    task = tasks["iris"]
    train, held = np.arange(0, 150, 2), np.arange(1, 150, 2)
    runs = [
        fit_predict(LEARNERS[learner], task.features[train], task.labels[train], 5, task.features[held], 3)
        for _ in range(2)
    ]
    assert runs[0].tobytes() == runs[1].tobytes()
    assert np.allclose(runs[0].sum(axis=1), 1)
    assert (runs[0].argmax(axis=1) == task.labels[held]).mean() > 0.8


@pytest.mark.parametrize("learner", list(LEARNERS))
def test_classes_that_a_node_lacks_get_no_probability(tasks, learner):
    task = tasks["iris"]
    rows = np.flatnonzero(task.labels != 1)
    found = fit_predict(LEARNERS[learner], task.features[rows], task.labels[rows], 0, task.features, 3)
    assert (found[:, 1] == 0).all()
    alone = fit_predict(LEARNERS[learner], task.features[:10], task.labels[:10], 0, task.features, 3)
    assert (alone == [1, 0, 0]).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 5), st.integers(0, 1000))
def test_agreement_is_symmetric_and_one_with_itself(rows, classes, seed):
    rng = np.random.default_rng(seed)
    first, second = rng.dirichlet(np.ones(classes), rows), rng.dirichlet(np.ones(classes), rows)
    assert agreement(first, first) == 1
    assert agreement(first, second) == pytest.approx(agreement(second, first))
    assert -1e-12 <= agreement(first, second) <= 1


def test_the_probe_finds_the_tree_more_sensitive_to_seeds_than_the_line(tasks):
    task = tasks["breast_cancer"]
    train, held = np.arange(0, 569, 2), np.arange(1, 569, 2)
    holdout = (task.features[held], task.labels[held])
    tree, line = (probe(task.features[train], task.labels[train], 4, name, holdout) for name in ("tree", "logistic"))
    assert tree["seed_sensitivity"] > 2 * line["seed_sensitivity"] > 0
    assert line["probe_iid"] > tree["probe_iid"] > 0.7
    assert probe(task.features[train], task.labels[train], 4, "tree", holdout) == tree


def test_the_probe_finds_no_sensitivity_in_a_learner_without_randomness(shares):
    labels = np.array([0, 1] * 20, np.int32)
    features = np.zeros((40, 1), np.float32)
    assert probe(features, labels, 4, shares, (features, labels))["seed_sensitivity"] == 0


def test_unusable_measurements_are_refused():
    features, labels = np.zeros((4, 1), np.float32), np.array([0, 1, 0, 1], np.int32)
    half = np.array([0, 0, 1, 1], np.int32)
    with pytest.raises(ConfigError, match="learner 'oracle' is unknown; use one of logistic, tree, mlp"):
        measure(features, labels, [half] * 2, 2, "oracle", (features, labels))
    with pytest.raises(ConfigError, match="at least 2 seeds"):
        measure(features, labels, [half], 2, "tree", (features, labels))
    with pytest.raises(ConfigError, match="hold-out has no rows"):
        measure(features, labels, [half] * 2, 2, "tree", (features[:0], labels[:0]))
    with pytest.raises(PlanError, match=r"nodes \[2\] have no rows"):
        measure(features, labels, [half] * 2, 3, "tree", (features, labels))
    with pytest.raises(ConfigError, match="a probe needs 2 training rows"):
        probe(features[:1], labels[:1], 2, "tree", (features, labels))
