"""How ways of partitioning affect consistency: measured on small models, learnt, predicted for this dataset."""

import dagster as dg

from assets.keys import FORECAST, OWNERS, PREDICTOR, PROFILE, SCORES, TRIALS
from assets.report import TRANSIENT_ERRORS, run_stage
from dagster_project.partitions import generation
from resources import ProjectResource


@dg.asset(
    key=TRIALS,
    deps=[PROFILE],
    group_name="consistency",
    kinds={"scikitlearn", "parquet"},
    owners=OWNERS,
    code_version="1",
    retry_policy=TRANSIENT_ERRORS,
)
def consistency_trials(context: dg.AssetExecutionContext, project: ProjectResource) -> dg.MaterializeResult:
    """Measured history: how far models trained on parts of the data agree, for each strategy, under several seeds."""

    def progress(done: int, total: int) -> None:
        # About ten lines: every line stays in the event log.
        if done == total or done % max(1, total // 10) == 0:
            context.log.info("measured %s of %s trials", done, total)

    return run_stage(lambda: project.chain().trials(progress))


@dg.asset(
    key=PREDICTOR,
    deps=[TRIALS],
    group_name="consistency",
    kinds={"scikitlearn"},
    owners=OWNERS,
    code_version="1",
    retry_policy=TRANSIENT_ERRORS,
)
def consistency_predictor(project: ProjectResource) -> dg.MaterializeResult:
    """The light model trained on the trials: its data, its cross-validated error and its baselines."""
    return run_stage(project.chain().predictor)


@dg.asset(
    key=SCORES,
    deps=[PREDICTOR, PROFILE, FORECAST],
    partitions_def=generation,
    group_name="consistency",
    kinds={"scikitlearn", "parquet"},
    owners=OWNERS,
    code_version="1",
    retry_policy=TRANSIENT_ERRORS,
)
def consistency_scores(context: dg.AssetExecutionContext, project: ProjectResource) -> dg.MaterializeResult:
    """A predicted consistency score in [0, 1] for each candidate strategy, before any row moves."""
    return run_stage(lambda: project.chain().scores(context.partition_key))
