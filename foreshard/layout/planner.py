"""The decision: which layout comes next, or that the one in place stays, with the reason in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pyarrow as pa

from foreshard.errors import PlanError
from foreshard.layout.assignment import Assignment
from foreshard.layout.candidates import (
    TRAIN,
    Candidate,
    PlanInputs,
    candidate_table,
    choose,
    objective,
    rate_candidates,
)
from foreshard.layout.check import check_plan
from foreshard.layout.cost import LayoutCost
from foreshard.layout.migration import migration_seconds, migration_steps, written_bytes
from foreshard.layout.placement import chunk_heat, node_arrays, place, rate_parent
from foreshard.layout.plan import Decision, Plan

_DECILE: Final = 10


@dataclass(frozen=True, eq=False)
class PlanResult:
    """A plan and how it was found.

    Attributes:
        plan: what to carry out.
        candidates: strategy, consistency, seconds, bytes, requests, chunks, objective; best first.
        assignment: figures of the training chunks' placement.
        migration: `MIGRATION_SCHEMA`, from the parent to `plan`.
    """

    plan: Plan
    candidates: pa.Table
    assignment: Assignment
    migration: pa.Table


@dataclass(frozen=True)
class _Standing:
    """The parent's layout under the heat of now; `unusable` says why it cannot stay, if so."""

    plan: Plan
    cost: LayoutCost | None
    unusable: str | None


def make_plan(
    inputs: PlanInputs, scores: Mapping[str, float], *, candidates: Sequence[str] | None = None
) -> PlanResult:
    """Plan the next layout.

    Every candidate strategy is arranged, cut and priced; the best has the least weight_time * seconds / seconds of the
    parent + weight_consistency * (1 - score), and near ties go to the most local one. It replaces the parent only if
    its objective is better and the seconds it saves over the horizon exceed those of the migration by the hysteresis;
    otherwise the parent's chunks, nodes and shards stay as they are, with their heat refreshed.

    Args:
        inputs: dataset, heat, prices, cluster, recipe and parent.
        scores: consistency of each candidate strategy, in [0, 1].
        candidates: names of strategies; the recipe's by default.

    Raises:
        PlanError: an unknown or unscored strategy, or data that the nodes' memory cannot hold.
    """
    standing = _standing(inputs)
    reference = standing.cost.total_s if standing is not None and standing.cost is not None else None
    names = inputs.reshard.strategies if candidates is None else candidates
    rated = rate_candidates(inputs, scores, names, reference)
    best = choose(rated)
    table = candidate_table(rated)
    if standing is not None and standing.unusable is None and standing.cost is not None:
        why = _not_better(inputs, standing, best, scores)
        if why is not None:
            return _keep(inputs, standing, scores, table, why)
    result = _build(inputs, standing, best, scores, table)
    if standing is None or standing.unusable is not None:
        return result
    why = _does_not_pay(inputs, standing, result)
    return _keep(inputs, standing, scores, table, why) if why is not None else result


def _standing(inputs: PlanInputs) -> _Standing | None:
    parent = inputs.parent
    if parent is None:
        return None
    if parent.fingerprint != inputs.fingerprint:
        return _Standing(parent, None, f"the snapshot is {inputs.fingerprint}, no longer {parent.fingerprint}")
    train = int((parent.column("split") == TRAIN).sum())
    heat = chunk_heat(inputs, parent.sample_ids, parent.offsets)[:train]
    cost = inputs.cost_of(heat, parent.column("rows")[:train].astype(np.float64))
    try:
        figures = replace(parent, predicted={**parent.predicted, "row_bytes": inputs.row_bytes})
        check_plan(figures, inputs.splits, inputs.cluster, inputs.reshard)
    except PlanError as error:
        return _Standing(parent, cost, str(error))
    return _Standing(parent, cost, None)


def _not_better(inputs: PlanInputs, standing: _Standing, best: Candidate, scores: Mapping[str, float]) -> str | None:
    assert standing.cost is not None
    before, after = standing.cost.total_s, best.cost.total_s
    if after >= before:
        return (
            f"kept: the best candidate, {best.strategy}, needs {after:.4g} s of I/O per epoch, the layout in place "
            f"{before:.4g} s, so there is nothing to save"
        )
    score = scores.get(standing.plan.strategy)
    here = objective(inputs.reshard, before, before, score) if score is not None else np.inf
    if best.objective >= here:
        return (
            f"kept: {best.strategy} has the objective {best.objective:.4f}, the layout in place "
            f"({standing.plan.strategy}) {here:.4f}"
        )
    return None


def _does_not_pay(inputs: PlanInputs, standing: _Standing, result: PlanResult) -> str | None:
    figures = result.plan.predicted
    if result.plan.digest == standing.plan.digest:
        return "kept: the best layout is the one in place"
    saving, migration = figures["saving_s"] * inputs.reshard.horizon, figures["migration_s"]
    if saving > (1 + inputs.reshard.hysteresis) * migration:
        return None
    return (
        f"kept: {result.plan.strategy} would save {figures['saving_s']:.4g} s per epoch, {saving:.4g} s over "
        f"{inputs.reshard.horizon} epochs, and cost {migration:.4g} s of migration "
        f"(with {inputs.reshard.hysteresis:.0%} hysteresis, {(1 + inputs.reshard.hysteresis) * migration:.4g} s)"
    )


def _build(
    inputs: PlanInputs,
    standing: _Standing | None,
    best: Candidate,
    scores: Mapping[str, float],
    table: pa.Table,
) -> PlanResult:
    placed = place(inputs, best)
    draft = Plan(
        generation=inputs.generation,
        fingerprint=inputs.fingerprint,
        strategy=best.strategy,
        root_seed=inputs.root_seed,
        nodes=tuple(node.name for node in inputs.cluster.nodes),
        parent=standing.plan.ref if standing is not None else None,
        decision="bootstrap" if standing is None else "reshard",
        reason="",
        predicted={},
        chunks=placed.chunks,
        sample_ids=placed.sample_ids,
        inherited=placed.inherited,
        compression=inputs.reshard.compression,
    )
    return _finish(inputs, standing, draft, best.cost, placed.assignment, scores, table)


def _keep(
    inputs: PlanInputs, standing: _Standing, scores: Mapping[str, float], table: pa.Table, reason: str
) -> PlanResult:
    parent = standing.plan
    assert standing.cost is not None
    heat = pa.array(chunk_heat(inputs, parent.sample_ids, parent.offsets))
    chunks = parent.chunks.set_column(parent.chunks.schema.get_field_index("heat"), "heat", heat)
    kept: Decision = "keep"
    draft = replace(
        parent, generation=inputs.generation, parent=parent.ref, decision=kept, reason=reason, chunks=chunks
    )
    return _finish(inputs, standing, draft, standing.cost, rate_parent(inputs, parent), scores, table)


def _finish(
    inputs: PlanInputs,
    standing: _Standing | None,
    draft: Plan,
    cost: LayoutCost,
    assignment: Assignment,
    scores: Mapping[str, float],
    table: pa.Table,
) -> PlanResult:
    steps = migration_steps(standing.plan if standing is not None else None, draft, inputs.row_bytes)
    _, _, bandwidth = node_arrays(inputs)
    before = standing.cost if standing is not None and standing.cost is not None else None
    predicted = _figures(inputs, cost, before) | _row_figures(draft)
    predicted |= {
        "migration_s": migration_seconds(steps, bandwidth, inputs.cost.latency_s),
        "migration_bytes": written_bytes(steps),
        "makespan_s": assignment.makespan,
        "gap": assignment.gap,
        "moved_bytes": assignment.moved_bytes,
    }
    if draft.strategy in scores:
        predicted["consistency"] = scores[draft.strategy]
    if standing is not None and standing.plan.strategy in scores:
        predicted["consistency_before"] = scores[standing.plan.strategy]
    reason = draft.reason or _reason(inputs, standing, draft, predicted)
    plan = replace(draft, predicted=predicted, reason=reason)
    check_plan(plan, inputs.splits, inputs.cluster, inputs.reshard)
    return PlanResult(plan, table, assignment, steps)


def _figures(inputs: PlanInputs, cost: LayoutCost, before: LayoutCost | None) -> dict[str, float]:
    figures = {
        "seconds_after": cost.total_s,
        "bytes_after": cost.bytes,
        "requests_after": cost.requests,
        "resident_bytes_after": cost.resident_bytes,
        "heat_error": float(inputs.heat_error),
        "row_bytes": float(inputs.row_bytes),
        "saving_s": 0.0,
    }
    if before is not None:
        figures |= {
            "seconds_before": before.total_s,
            "bytes_before": before.bytes,
            "requests_before": before.requests,
            "resident_bytes_before": before.resident_bytes,
            "saving_s": before.total_s - cost.total_s,
        }
    return figures


def _row_figures(plan: Plan) -> dict[str, float]:
    """Return the mean rows of training chunks, of all and of the hottest and coldest decile by draws per row."""
    train = plan.column("split") == TRAIN
    rows = plan.column("rows")[train].astype(np.float64)
    density = plan.column("heat")[train].astype(np.float64) / rows
    by_heat = rows[np.argsort(-density, kind="stable")]
    count = max(1, len(by_heat) // _DECILE)
    return {
        "chunks": float(len(rows)),
        "mean_rows": float(rows.mean()),
        "hot_rows": float(by_heat[:count].mean()),
        "cold_rows": float(by_heat[-count:].mean()),
    }


def _reason(inputs: PlanInputs, standing: _Standing | None, plan: Plan, predicted: dict[str, float]) -> str:
    if standing is None:
        return (
            f"first layout: {plan.strategy} has the best objective, {predicted['seconds_after']:.4g} s of I/O per "
            f"epoch and consistency {predicted['consistency']:.3f}"
        )
    if standing.unusable is not None:
        return f"re-sharded with {plan.strategy} because the layout in place cannot stay: {standing.unusable}"
    return (
        f"re-sharded with {plan.strategy}: {predicted['seconds_before']:.4g} s of I/O per epoch become "
        f"{predicted['seconds_after']:.4g} s; over {inputs.reshard.horizon} epochs that saves "
        f"{predicted['saving_s'] * inputs.reshard.horizon:.4g} s for {predicted['migration_s']:.4g} s of migration"
    )
