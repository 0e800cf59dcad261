"""Which sample lies in which chunk, shard and node: sizing, assignment, migration and the plan."""

from foreshard.layout.assignment import Assignment, assign_chunks
from foreshard.layout.balance import AssignmentWeights
from foreshard.layout.candidates import PlanInputs
from foreshard.layout.check import check_plan
from foreshard.layout.cost import CostModel, LayoutCost, expected_touches, fit_cost_model, layout_cost
from foreshard.layout.migration import MIGRATION_SCHEMA, migration_steps
from foreshard.layout.plan import PLAN_SCHEMA, Plan, chunk_content_ids
from foreshard.layout.planner import PlanResult, make_plan
from foreshard.layout.plots import balance_plot, plan_plot
from foreshard.layout.sizing import fixed_offsets, size_chunks

__all__ = [
    "MIGRATION_SCHEMA",
    "PLAN_SCHEMA",
    "Assignment",
    "AssignmentWeights",
    "CostModel",
    "LayoutCost",
    "Plan",
    "PlanInputs",
    "PlanResult",
    "assign_chunks",
    "balance_plot",
    "check_plan",
    "chunk_content_ids",
    "expected_touches",
    "fit_cost_model",
    "fixed_offsets",
    "layout_cost",
    "make_plan",
    "migration_steps",
    "plan_plot",
    "size_chunks",
]
