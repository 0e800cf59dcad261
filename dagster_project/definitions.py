"""What Dagster loads. Nothing here, or below it at import time, reads a file or touches the network."""

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    """Return everything this code location holds."""
    from assets import all_assets
    from dagster_project.checks import checks
    from dagster_project.jobs import bootstrap, evaluate, reshard
    from dagster_project.schedules import nightly_evaluation
    from dagster_project.sensors import report_failed_generation, reshard_every_n_epochs
    from resources import ProjectResource

    return dg.Definitions(
        assets=all_assets,
        asset_checks=checks,
        jobs=[bootstrap, reshard, evaluate],
        schedules=[nightly_evaluation],
        sensors=[reshard_every_n_epochs, report_failed_generation],
        resources={"project": ProjectResource()},
        executor=dg.in_process_executor,
    )
