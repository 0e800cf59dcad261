"""What training jobs read, and what they are expected to read next."""

import dagster as dg

from assets.keys import EPOCH_MARKERS, EVENTS, FORECAST, OWNERS
from assets.report import TRANSIENT_ERRORS, run_stage
from dagster_project.partitions import generation
from resources import ProjectResource


@dg.asset(
    key=EVENTS,
    deps=[EPOCH_MARKERS],
    partitions_def=generation,
    group_name="access",
    kinds={"parquet"},
    owners=OWNERS,
    code_version="1",
    retry_policy=TRANSIENT_ERRORS,
)
def access_events(context: dg.AssetExecutionContext, project: ProjectResource) -> dg.MaterializeResult:
    """The window's access logs, validated and compacted; empty for a first layout."""
    return run_stage(lambda: project.chain().events(context.partition_key))


@dg.asset(
    key=FORECAST,
    deps=[EVENTS],
    partitions_def=generation,
    group_name="access",
    kinds={"prophet", "parquet"},
    owners=OWNERS,
    code_version="1",
    retry_policy=TRANSIENT_ERRORS,
)
def access_forecast(context: dg.AssetExecutionContext, project: ProjectResource) -> dg.MaterializeResult:
    """Ranked chunks with calibrated probabilities, and the expected draws of every sample in the next epoch."""
    return run_stage(lambda: project.chain().forecast(context.partition_key))
