"""Which sample lies where: what a layout aims for, the plan of one, and the pointer to the current one."""

import dagster as dg

from assets.keys import CURRENT, EVENTS, FORECAST, OWNERS, PLAN, PREFETCH, RECIPE, SCORES
from assets.report import OBJECT_STORE_POOL, SOLVER_POOL, TRANSIENT_ERRORS, run_stage
from dagster_project.partitions import generation
from resources import ProjectResource


@dg.asset(
    key=RECIPE, group_name="layout", kinds={"json"}, owners=OWNERS, code_version="2", retry_policy=TRANSIENT_ERRORS
)
def layout_recipe(project: ProjectResource) -> dg.MaterializeResult:
    """Objective weights, root seed, bounds and cluster; a change of it makes every plan stale."""
    return run_stage(project.chain().recipe)


@dg.asset(
    key=PLAN,
    deps=[RECIPE, EVENTS, FORECAST, SCORES],
    partitions_def=generation,
    group_name="layout",
    kinds={"numpy", "arrow"},
    owners=OWNERS,
    code_version="1",
    pool=SOLVER_POOL,
    retry_policy=TRANSIENT_ERRORS,
)
def layout_plan(context: dg.AssetExecutionContext, project: ProjectResource) -> dg.MaterializeResult:
    """Strategy, chunk boundaries, node assignment, migration steps and predicted savings."""
    return run_stage(lambda: project.chain().plan(context.partition_key))


@dg.asset(
    key=CURRENT,
    deps=[PREFETCH],
    partitions_def=generation,
    group_name="layout",
    kinds={"json"},
    owners=OWNERS,
    code_version="1",
    pool=OBJECT_STORE_POOL,
    retry_policy=TRANSIENT_ERRORS,
)
def layout_current(context: dg.AssetExecutionContext, project: ProjectResource) -> dg.MaterializeResult:
    """The pointer that new readers follow, moved by compare-and-swap; never back to an older generation."""
    return run_stage(lambda: project.chain().publish(context.partition_key))
