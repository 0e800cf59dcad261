"""From real trials to scores: what is measured is predicted, on data that the predictor has never seen."""

import json

import numpy as np
import pyarrow as pa
import pytest

from foreshard.consistency import (
    SCORE_SCHEMA,
    TRIAL_SCHEMA,
    DatasetProfile,
    TrialTask,
    bundled_tasks,
    fit_predictor,
    run_trials,
    score_partition,
    score_plot,
    score_strategies,
    subsample_tasks,
)
from foreshard.consistency.inputs import FEATURES
from foreshard.consistency.metafeatures import metafeatures
from foreshard.consistency.trials import REFERENCES, loss_heat
from foreshard.consistency.validation import TrialData, conformal_half_width, cross_validate, spearman
from foreshard.errors import ConfigError, PlanError
from foreshard.strategies import StrategyInput, get_strategies, partition

SETTINGS = {"learners": ("logistic", "tree"), "nodes": 4, "seeds": 3, "rows": 600}
SEED = b"sixteen byte key"


@pytest.fixture(scope="module")
def tasks():
    return {task.name: task for task in bundled_tasks()}


@pytest.fixture(scope="module")
def trials(tasks):
    return run_trials(list(tasks.values()), get_strategies(), **SETTINGS)


@pytest.fixture(scope="module")
def predictor(trials):
    return fit_predictor(trials)


@pytest.fixture(scope="module")
def unseen(tasks, trials):
    """A predictor that knows nothing of breast_cancer, and that task."""
    known = np.array([name != "breast_cancer" for name in trials.column("task").to_pylist()])
    task = tasks["breast_cancer"]
    profile = DatasetProfile(len(task.labels), "y", metafeatures(task.features, task.labels), [], [])
    return fit_predictor(trials.filter(pa.array(known))), profile, task


def scored(unseen, strategies=None, learner="logistic", **changes):
    predictor, profile, task = unseen
    heat = loss_heat(task.features, task.labels)
    options = {"heat": heat, "nodes": 4, "learner": learner, "chunk_rows": 16, "seed": SEED} | changes
    return score_strategies(
        predictor,
        profile,
        task.features,
        task.labels,
        get_strategies() if strategies is None else strategies,
        **options,
    )


def by_strategy(table, value):
    return dict(zip(table.column("strategy").to_pylist(), table.column(value).to_pylist(), strict=True))


def test_bundled_tasks_are_the_real_ones(tasks):
    assert {name: len(task.labels) for name, task in tasks.items()} == {
        "iris": 150,
        "wine": 178,
        "breast_cancer": 569,
        "digits": 1797,
        "diabetes": 442,
    }
    assert tasks["digits"].features.shape == (1797, 8)
    assert np.bincount(tasks["wine"].labels).tolist() == [59, 71, 48]
    assert len(np.unique(tasks["diabetes"].labels)) == 4


def test_every_case_is_tried_once(tasks, trials):
    assert trials.schema.equals(TRIAL_SCHEMA)
    cases = set(zip(*(trials.column(name).to_pylist() for name in ("task", "strategy", "learner")), strict=True))
    assert len(cases) == trials.num_rows == len(tasks) * (len(get_strategies()) + len(REFERENCES)) * 2
    values = np.stack([trials.column(name).to_numpy() for name in FEATURES])
    assert np.isfinite(values).all()
    for name in ("c_node", "c_seed", "c_all", "c_eval"):
        column = trials.column(name).to_numpy()
        assert 0 <= column.min() <= column.max() <= 1, name


@pytest.mark.parametrize("task", ["iris", "wine", "breast_cancer", "digits"])
@pytest.mark.parametrize("learner", ["logistic", "tree"])
def test_bad_partitions_measure_clearly_lower_on_real_data(trials, task, learner):
    rows = np.array(trials.column("task").to_pylist()) == task
    rows &= np.array(trials.column("learner").to_pylist()) == learner
    measured = by_strategy(trials.filter(pa.array(rows)), "c_all")
    assert measured["stratified"] - measured["label_sorted"] > 0.15
    assert measured["stratified"] - measured["clustered"] > 0.1
    assert measured["label_sorted"] < measured["label_skewed"] < measured["stratified"]


def test_trials_repeat_exactly(tasks, trials):
    again = run_trials([tasks["wine"]], get_strategies(("stratified", "clustered")), **SETTINGS)
    keep = [
        task == "wine" and strategy in {"stratified", "clustered", *REFERENCES}
        for task, strategy in zip(trials.column("task").to_pylist(), trials.column("strategy").to_pylist(), strict=True)
    ]
    assert by_case(again) == by_case(trials.filter(pa.array(keep)))


def by_case(table):
    return {(row["strategy"], row["learner"]): row for row in table.to_pylist()}


def test_progress_counts_up_to_all_cases(tasks):
    seen = []
    options = SETTINGS | {"learners": ("tree",), "seeds": 2, "progress": lambda *step: seen.append(step)}
    run_trials([tasks["iris"], tasks["wine"]], get_strategies(("hash",)), **options)
    assert seen == [(i, 6) for i in range(1, 7)]


def test_subsamples_are_parts_of_one_family_in_row_order():
    features = np.arange(1_000, dtype=np.float32)[:, None]
    parts = subsample_tasks("flights", features, (np.arange(1_000) % 2).astype(np.int32), count=2, rows=100)
    assert [part.name for part in parts] == ["flights/0", "flights/1"]
    assert {part.family for part in parts} == {"flights"}
    assert not np.array_equal(parts[0].features, parts[1].features)
    assert all((np.diff(part.features[:, 0]) > 0).all() and len(part.labels) == 100 for part in parts)


def test_loss_heat_is_an_epoch_of_draws_on_the_hard_rows(tasks):
    task = tasks["iris"]
    heat = loss_heat(task.features, task.labels)
    assert heat.mean() == pytest.approx(1, rel=1e-5)
    assert heat.min() > 0
    assert heat[task.labels == 0].mean() < heat[task.labels == 1].mean()  # setosa is the easy one


def test_the_predictor_beats_its_baselines_on_families_it_has_not_seen(predictor):
    card = predictor.card()
    found, baselines = card["cross_validation"], card["cross_validation"]["baselines"]
    assert found["mae"] < 0.06
    assert found["spearman"] > 0.85
    assert found["spearman_within"] > 0.6
    assert found["regret"] < 0.04
    assert set(baselines) == {"strategy_prior", "strategy_prior_probed", "label_tv"}
    for name, baseline in baselines.items():
        assert found["mae"] < 0.75 * baseline["mae"], name
        assert found["spearman"] > baseline["spearman"] + 0.05, name


def test_the_card_says_what_was_learnt_from(trials, predictor):
    card = predictor.card()
    assert json.loads(json.dumps(card)) == card
    assert card["trials"] == trials.num_rows
    assert card["families"] == ["breast_cancer", "diabetes", "digits", "iris", "wine"]
    assert card["features"] == list(FEATURES)
    assert {
        "correlation_mean",
        "class_imbalance",
        "skew_mean",
        "seed_sensitivity",
        "log_rows_per_node",
        "nodes",
    } <= set(card["features"])
    assert 0 < card["interval"]["half_width"] < 0.2
    assert len(card["training_digest"]) == 32


def test_the_order_of_trials_changes_nothing_and_their_values_do(trials, predictor):
    first = predictor
    shuffled = fit_predictor(trials.take(np.random.default_rng(0).permutation(trials.num_rows)))
    assert shuffled.card() == first.card()
    rows = trials.to_pylist()
    assert shuffled.predict(rows) == first.predict(rows)
    less = fit_predictor(trials.slice(1))
    assert less.card()["training_digest"] != first.card()["training_digest"]


def test_scores_lie_in_their_intervals_and_cover_what_was_measured(trials, predictor):
    scores = predictor.predict(trials.to_pylist())
    assert all(0 <= s.low <= s.score <= s.high <= 1 for s in scores)
    assert all(s.outside == 0 for s in scores)
    inside = [s.low <= c <= s.high for s, c in zip(scores, trials.column("c_all").to_pylist(), strict=True)]
    assert np.mean(inside) >= 0.9


def test_unseen_data_is_flagged_and_still_scored_within_bounds(predictor):
    for extreme in (1e6, -1e6):
        (score,) = predictor.predict([dict.fromkeys(FEATURES, extreme)])
        assert 0 <= score.low <= score.score <= score.high <= 1
        assert score.outside == len(FEATURES)
    assert predictor.predict([]) == []


def test_missing_inputs_are_named(predictor):
    row = dict.fromkeys(FEATURES, 0.5)
    with pytest.raises(ConfigError, match=r"inputs \['mmd'\] are missing"):
        predictor.predict([{name: value for name, value in row.items() if name != "mmd"}])
    with pytest.raises(ConfigError, match=r"inputs \['label_tv'\] are missing or not finite"):
        predictor.predict([row | {"label_tv": float("nan")}])


def test_scores_of_an_unseen_dataset_order_strategies_as_measured(unseen, trials):
    candidates = {**get_strategies(), **REFERENCES}
    rows = np.array(trials.column("task").to_pylist()) == "breast_cancer"
    for learner in ("logistic", "tree"):
        only = rows & (np.array(trials.column("learner").to_pylist()) == learner)
        measured = by_strategy(trials.filter(pa.array(only)), "c_all")
        table = scored(unseen, candidates, learner)
        predicted = by_strategy(table, "score")
        assert table.schema.equals(SCORE_SCHEMA)
        assert predicted["stratified"] - predicted["clustered"] > 0.08
        assert predicted["stratified"] - predicted["label_sorted"] > 0.15
        names = sorted(candidates)
        order = spearman(np.array([measured[n] for n in names]), np.array([predicted[n] for n in names]))
        assert order > 0.5
        assert np.mean([abs(measured[n] - predicted[n]) for n in names]) < 0.15


def test_scores_come_best_first_and_repeat_exactly(unseen):
    table = scored(unseen)
    assert table.num_rows == 7
    values = table.column("score").to_numpy()
    assert (np.diff(values) <= 0).all()
    assert ((table.column("low").to_numpy() <= values) & (values <= table.column("high").to_numpy())).all()
    assert scored(unseen).equals(table)


def test_a_partition_is_scored_like_the_strategy_that_made_it(unseen):
    predictor, profile, task = unseen
    by_name = by_strategy(scored(unseen), "score")
    ids = np.arange(len(task.labels), dtype=np.int64)
    heat = loss_heat(task.features, task.labels)
    for name, strategy in get_strategies(("stratified", "clustered", "contiguous")).items():
        node_of = partition(strategy, StrategyInput(ids, task.labels, task.features, heat, SEED), 4, 16)
        score = score_partition(predictor, profile, task.features, task.labels, node_of, 4, "logistic")
        assert score.score == pytest.approx(by_name[name], abs=0.08), name
        assert score == score_partition(predictor, profile, task.features, task.labels, node_of, 4, "logistic")


def test_large_data_are_scored_at_the_scale_of_the_trials(unseen):
    predictor, profile, task = unseen
    many = 200
    big = TrialTask("big", np.repeat(task.features, many, axis=0), np.repeat(task.labels, many))
    heat = np.ones(len(big.labels), np.float32)
    large = by_strategy(scored((predictor, profile, big), heat=heat, chunk_rows=16 * many), "score")
    assert large["stratified"] - large["clustered"] > 0.08


def test_a_node_without_rows_is_left_out_of_a_score(unseen):
    predictor, profile, task = unseen
    node_of = (np.arange(len(task.labels)) % 3).astype(np.int32)
    rest = (predictor, profile, task.features, task.labels)
    assert 0 <= score_partition(*rest, node_of, 4, "tree").score <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learner": "mlp"}, "learner 'mlp' was not tried; trials cover logistic, tree"),
        ({"heat": np.ones(3, np.float32)}, "heat has 3 rows, labels have 569"),
        ({"strategies": {}}, "no strategy was given"),
    ],
)
def test_unusable_score_requests_are_refused(unseen, change, message):
    with pytest.raises(ConfigError, match=message):
        scored(unseen, **change)


@pytest.mark.parametrize("change", [{"nodes": 0}, {"nodes": 400}, {"chunk_rows": 0}])
def test_partitions_that_cannot_be_are_refused(unseen, change):
    with pytest.raises(PlanError):
        scored(unseen, **change)


def test_partitions_that_do_not_fit_the_data_are_refused(unseen):
    predictor, profile, task = unseen
    with pytest.raises(PlanError, match="places 3 rows, the data has 569"):
        score_partition(predictor, profile, task.features, task.labels, np.zeros(3, np.int32), 2, "tree")
    with pytest.raises(PlanError, match=r"uses nodes 5..5; there are 0..1"):
        score_partition(predictor, profile, task.features, task.labels, np.full(569, 5, np.int32), 2, "tree")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 1}, "seeds >= 2"),
        ({"learners": ("oracle",)}, "learner 'oracle' is unknown"),
        ({"learners": ()}, "trials need tasks, strategies and learners"),
        ({"nodes": 40}, "'iris' has 100 training rows for 40 nodes; it needs 320"),
    ],
)
def test_unusable_trials_are_refused(tasks, change, message):
    with pytest.raises(ConfigError, match=message):
        run_trials([tasks["iris"]], get_strategies(("hash",)), **(SETTINGS | change))


def test_tasks_with_the_same_name_are_refused(tasks):
    with pytest.raises(ConfigError, match="not distinct"):
        run_trials([tasks["iris"]] * 2, get_strategies(("hash",)), **SETTINGS)


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (np.zeros((3, 1)), [0, 1], "give"),
        (np.zeros((2, 0)), [0, 1], "d >= 1"),
        (np.array([[np.nan], [0]]), [0, 1], "not finite"),
        (np.zeros((2, 1)), [1, 1], "single class"),
    ],
)
def test_tasks_that_cannot_be_tried_are_refused(features, labels, message):
    with pytest.raises(ConfigError, match=message):
        TrialTask("bad", features.astype(np.float32), np.array(labels, np.int32))


def test_trials_that_cannot_teach_are_refused(trials):
    one = trials.filter(pa.array([name == "iris" for name in trials.column("task").to_pylist()]))
    with pytest.raises(ConfigError, match="cover 1 dataset families"):
        fit_predictor(one)
    with pytest.raises(ConfigError, match=r"differing: \['mmd'\]"):
        fit_predictor(trials.drop_columns(["mmd"]))
    broken = trials.set_column(trials.schema.get_field_index("mmd"), "mmd", pa.array([np.nan] * trials.num_rows))
    with pytest.raises(ConfigError, match="not finite"):
        fit_predictor(broken)


def test_cross_validation_never_shows_a_model_the_family_it_predicts(trials):
    data = TrialData.from_table(trials)
    shown = []

    class Remember:
        def __init__(self, target):
            self.target = target

        def predict(self, inputs):
            shown.append((set(self.target.tolist()), len(inputs)))
            return np.full(len(inputs), 0.5)

    residuals, _ = cross_validate(data, lambda _, target: Remember(target))
    assert np.allclose(residuals, data.target - 0.5)
    assert len(shown) == 5
    for family, (seen, count) in enumerate(shown):
        held = set(data.target[data.family == family].tolist())
        assert not seen & held
        assert count == (data.family == family).sum()


def test_rank_correlation_and_interval_match_their_definitions():
    first = np.array([1.0, 2.0, 2.0, 9.0])
    assert spearman(first, first**3) == pytest.approx(1)
    assert spearman(first, -first) == pytest.approx(-1)
    assert spearman(first, np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(4.5 / np.sqrt(4.5 * 5))
    assert spearman(first, np.ones(4)) == 0
    residuals = np.arange(1, 100) * np.where(np.arange(99) % 2, -1.0, 1.0)
    assert conformal_half_width(residuals, 0.9) == 90
    assert conformal_half_width(residuals[:3], 0.9) == 3


def test_the_score_plot_is_a_small_png_that_repeats(unseen):
    table = scored(unseen)
    raw = score_plot(table)
    assert raw.startswith(b"\x89PNG")
    assert 2_000 < len(raw) < 30_000
    assert score_plot(table) == raw
