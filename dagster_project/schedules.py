"""Schedules: a nightly look at how good the newest forecast is."""

import dagster as dg

from assets.keys import EVENTS
from dagster_project.jobs import evaluate
from dagster_project.partitions import GENERATION


@dg.schedule(job=evaluate, cron_schedule="0 3 * * *", execution_timezone="UTC")
def nightly_evaluation(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Forecast the newest generation that has logs again, and so backtest it; nothing is published."""
    logged = context.instance.get_materialized_partitions(EVENTS)
    keys = [key for key in context.instance.get_dynamic_partitions(GENERATION) if key in logged]
    if not keys:
        return dg.SkipReason("no generation has access events yet")
    return dg.RunRequest(partition_key=keys[-1])
