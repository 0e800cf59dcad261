"""The decision: which layout comes next, when the one in place stays, and why."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshard.config import ClusterConfig, NodeConfig, ReshardConfig
from foreshard.errors import PlanError
from foreshard.layout.candidates import PlanInputs
from foreshard.layout.check import check_plan
from foreshard.layout.cost import CostModel
from foreshard.layout.placement import current_nodes
from foreshard.layout.planner import make_plan
from foreshard.layout.plots import balance_plot, plan_plot
from foreshard.strategies import STRATEGIES

N = 6000
SCORES = {
    "contiguous": 0.80, "hash": 0.93, "seeded_shuffle": 0.92, "stratified": 0.96,
    "clustered": 0.70, "hotness": 0.85, "stratified_hotness": 0.94,
}  # fmt: skip


def inputs(n: int = N, *, nodes: int = 3, memory: int | None = None, recipe: dict | None = None, **changes):
    rng = np.random.default_rng(n)
    splits = np.where(rng.random(n) < 0.8, 0, rng.integers(1, 3, n)).astype(np.uint8)
    splits[0] = 0
    config = {"min_chunk_rows": 16, "max_chunk_rows": 512, "chunk_overhead": 1e-3, **(recipe or {})}
    base = PlanInputs(
        generation="demo.e000000",
        fingerprint="ab" * 16,
        splits=splits,
        labels=(rng.random(n) < 0.3).astype(np.int32),
        features=rng.normal(size=(n, 3)).astype(np.float32),
        heat=(splits == 0).astype(np.float32),
        heat_error=0.0,
        row_bytes=100.0,
        steps=10_000,
        cost=CostModel(1e-4, 2e7, 0.1 * n * 100, config["chunk_overhead"]),
        cluster=ClusterConfig(
            nodes=tuple(NodeConfig(name=f"n{i}", memory=memory or n * 100, bandwidth=2e7) for i in range(nodes))
        ),
        reshard=ReshardConfig.model_validate(config),
        root_seed=1,
        parent=None,
    )
    return replace(base, **changes)


def skewed(splits: np.ndarray, seed: int = 0) -> np.ndarray:
    heat = np.random.default_rng(seed).pareto(1.1, len(splits)) * (splits == 0)
    return (heat / heat.sum() * (splits == 0).sum()).astype(np.float32)


def test_bootstrap_takes_the_best_objective_and_covers_every_split():
    result = make_plan(inputs(), SCORES)
    plan = result.plan
    assert plan.decision == "bootstrap"
    assert plan.parent is None
    assert plan.strategy == result.candidates["strategy"][0].as_py() == "stratified"
    assert set(result.candidates["strategy"].to_pylist()) == set(STRATEGIES)
    assert (np.diff(result.candidates["objective"].to_numpy()) >= 0).all()
    assert plan.predicted["migration_bytes"] == N * 100
    assert plan.predicted["consistency"] == 0.96
    assert len(np.unique(plan.column("node"))) == 3
    assert "first layout: stratified" in plan.reason


def test_uniform_heat_on_a_fine_layout_is_kept_with_the_reason():
    first = make_plan(inputs(), SCORES).plan
    result = make_plan(inputs(parent=first, generation="demo.e000004"), SCORES)
    plan = result.plan
    assert plan.decision == "keep"
    assert plan.digest == first.digest
    assert plan.parent == first.ref
    assert plan.generation == "demo.e000004"
    assert set(result.migration["action"].to_pylist()) == {"reuse"}
    assert plan.predicted["saving_s"] == 0
    assert plan.predicted["migration_s"] == 0
    assert f"{plan.predicted['seconds_before']:.4g} s" in plan.reason
    assert "nothing to save" in plan.reason


def test_skewed_heat_is_worth_a_reshard_that_puts_hot_rows_into_small_chunks():
    first = make_plan(inputs(), SCORES).plan
    now = inputs(parent=first, generation="demo.e000004", heat=skewed(inputs().splits), heat_error=0.1)
    result = make_plan(now, SCORES)
    plan = result.plan
    assert plan.decision == "reshard"
    assert plan.strategy == "stratified_hotness"
    assert plan.parent == first.ref != plan.ref
    predicted = plan.predicted
    assert predicted["saving_s"] == pytest.approx(predicted["seconds_before"] - predicted["seconds_after"])
    assert predicted["saving_s"] * 4 > 1.1 * predicted["migration_s"] > 0
    assert predicted["hot_rows"] * 2 < predicted["cold_rows"]
    assert predicted["consistency_before"] == 0.96
    assert f"saves {predicted['saving_s'] * 4:.4g} s" in plan.reason
    # Settled: the same heat again asks for no further move.
    again = make_plan(replace(now, parent=plan, generation="demo.e000008"), SCORES).plan
    assert again.decision == "keep"
    assert again.digest == plan.digest


def test_a_saving_that_does_not_pay_for_its_migration_is_declined_with_figures():
    first = make_plan(inputs(), SCORES).plan
    slow = ClusterConfig(nodes=tuple(NodeConfig(name=f"n{i}", memory=N * 100, bandwidth=1e4) for i in range(3)))
    hot = {"parent": first, "heat": skewed(inputs().splits), "cluster": slow}
    plan = make_plan(inputs(**hot), SCORES).plan
    assert plan.decision == "keep"
    assert plan.digest == first.digest
    assert "would save" in plan.reason
    assert "of migration" in plan.reason
    patient = make_plan(inputs(**hot, recipe={"horizon": 1000}), SCORES).plan
    assert patient.decision == "reshard"


def test_a_layout_of_better_time_but_worse_objective_is_declined():
    first = make_plan(inputs(), SCORES).plan
    now = inputs(parent=first, heat=skewed(inputs().splits), recipe={"weight_time": 0.001, "weight_consistency": 100.0})
    plan = make_plan(now, {**SCORES, "stratified": 0.99}, candidates=["hotness", "stratified_hotness"]).plan
    assert plan.decision == "keep"
    assert "has the objective" in plan.reason


def test_a_kept_plan_reports_the_heat_of_now():
    first = make_plan(inputs(), SCORES).plan
    heat = inputs().heat * np.float32(3)
    plan = make_plan(inputs(parent=first, heat=heat), SCORES).plan
    assert plan.decision == "keep"
    assert plan.column("heat").sum() == pytest.approx(3 * first.column("heat").sum())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fingerprint": "cd" * 16}, "no longer abab"),
        ({"nodes": 2}, "the cluster has"),
        ({"recipe": {"max_chunk_rows": 32}}, "max_chunk_rows 32"),
    ],
)
def test_a_layout_that_cannot_stay_is_replaced(changes, message):
    first = make_plan(inputs(), SCORES).plan
    plan = make_plan(inputs(parent=first, **changes), SCORES).plan
    assert plan.decision == "reshard"
    assert message in plan.reason
    assert plan.parent == first.ref


def test_chunks_that_stay_the_same_stay_on_their_node():
    first = make_plan(inputs(), SCORES).plan
    names = [chunk.as_py() for chunk in first.chunks["content_id"]]
    renamed = ClusterConfig(nodes=tuple(NodeConfig(name=name, memory=N * 100) for name in ("n2", "new", "n0")))
    now = current_nodes(inputs(parent=first, cluster=renamed), [bytes(16), *names])
    assert now[0] == -1
    assert now[1:].tolist() == [{0: 2, 1: -1, 2: 0}[node] for node in first.column("node").tolist()]


def test_equal_inputs_give_equal_plans():
    heat = skewed(inputs().splits)
    one, two = (make_plan(inputs(heat=heat), SCORES).plan for _ in range(2))
    assert one.to_bytes() == two.to_bytes()


def test_validation_and_test_rows_stay_where_they_are_across_a_reshard():
    first = make_plan(inputs(), SCORES).plan
    second = make_plan(inputs(parent=first, heat=skewed(inputs().splits)), SCORES).plan
    assert second.decision == "reshard"

    def held_out(plan):
        rest = plan.column("split") > 0
        ids = plan.chunks["content_id"].to_numpy(zero_copy_only=False)[rest]
        return list(zip(ids, plan.column("node")[rest], strict=True))

    assert held_out(first) == held_out(second)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(3, 900),
    st.integers(1, 4),
    st.sampled_from(sorted(STRATEGIES)),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.booleans(),
)
def test_every_plan_is_sound(n, nodes, name, error, skew):
    given_inputs = inputs(n, nodes=nodes, heat_error=error)
    if skew:
        given_inputs = replace(given_inputs, heat=skewed(given_inputs.splits, n))
    result = make_plan(given_inputs, SCORES, candidates=[name])
    plan = result.plan
    check_plan(plan, given_inputs.splits, given_inputs.cluster, given_inputs.reshard)
    assert np.array_equal(np.sort(plan.sample_ids), np.arange(n))
    assert np.array_equal(plan.column("split")[plan.chunk_of()], given_inputs.splits)
    heat = np.bincount(plan.chunk_of(), given_inputs.heat.astype(float), plan.chunks.num_rows)
    assert plan.column("heat") == pytest.approx(heat)
    assert result.assignment.node.tolist() == plan.column("node")[plan.column("split") == 0].tolist()
    assert all(np.isfinite(value) for value in plan.predicted.values())


def test_bad_plan_inputs_are_refused_naming_the_value():
    with pytest.raises(PlanError, match="'magic' is unknown"):
        make_plan(inputs(), SCORES, candidates=["magic"])
    with pytest.raises(PlanError, match="'hash' has the score None"):
        make_plan(inputs(), {"contiguous": 0.5}, candidates=["hash"])
    with pytest.raises(PlanError, match=r"need .* bytes, the 3 nodes have"):
        make_plan(inputs(memory=N * 100 // 4), SCORES)
    with pytest.raises(PlanError, match=r"'n0' lacks \d+ of the bytes"):
        make_plan(inputs(memory=1000), SCORES)
    with pytest.raises(PlanError, match="heat has 5 rows, splits has 6000"):
        inputs(heat=np.ones(5, np.float32))
    with pytest.raises(PlanError, match="none of the 6000 samples is in the train split"):
        inputs(splits=np.ones(N, np.uint8))
    with pytest.raises(PlanError, match="negative or non-finite"):
        inputs(heat=np.full(N, np.nan, np.float32))
    with pytest.raises(PlanError, match="row_bytes is 0"):
        inputs(row_bytes=0)


def test_plots_are_small_png_pictures():
    result = make_plan(inputs(), SCORES, candidates=["hotness"])
    for picture in (plan_plot(result), balance_plot(result)):
        assert picture.startswith(b"\x89PNG")
        assert len(picture) < 40_000


def test_strategies_that_the_models_cannot_tell_apart_go_to_the_one_that_keeps_neighbours_together():
    even = dict.fromkeys(STRATEGIES, 0.9)
    assert make_plan(inputs(), even | {"hash": 0.909}).plan.strategy == "contiguous"
    assert make_plan(inputs(), even | {"hash": 0.95}).plan.strategy == "hash"
