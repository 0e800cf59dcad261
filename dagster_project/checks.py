"""Blocking checks: each holds back everything downstream, so nothing is published that failed one."""

import warnings

import dagster as dg
from dagster_shared.utils.warnings import PreviewWarning

from assets.keys import CURRENT, EVENTS, FORECAST, OBJECTS, PLAN, PREFETCH, SCORES
from dagster_project.partitions import generation
from resources import ProjectResource


def generation_check(asset: dg.AssetKey, name: str, stage: str, description: str) -> dg.AssetChecksDefinition:
    """Return a blocking check with a status for each generation.

    Args:
        asset: the asset whose output it looks at.
        name: the check's name.
        stage: the stage's name in `foreshard.chain.chain.CHECKS`.
        description: what holds if it passes.
    """
    with warnings.catch_warnings():
        # Partitioned checks are a preview feature; tests hold both what we use of it: gating and status per partition.
        warnings.simplefilter("ignore", PreviewWarning)

        @dg.asset_check(asset=asset, name=name, description=description, blocking=True, partitions_def=generation)
        def check(context: dg.AssetCheckExecutionContext, project: ProjectResource) -> dg.AssetCheckResult:
            outcome = project.chain().check(stage, context.partition_key)
            figures = {key: value for key, value in outcome.metadata.items() if value is not None}
            return dg.AssetCheckResult(passed=outcome.passed, description=outcome.description, metadata=figures)

    return check


checks = [
    generation_check(EVENTS, "complete", "events", "Logs of the window have the schema and nothing is missing."),
    generation_check(FORECAST, "finite", "forecast", "Expected draws are finite, >= 0 and within the train split."),
    generation_check(SCORES, "within_bounds", "scores", "Every candidate strategy has a score in [0, 1]."),
    generation_check(PLAN, "exact_cover", "plan", "Every sample is in one chunk, within bounds, splits and memory."),
    generation_check(OBJECTS, "verified", "shards", "Shards are there in full and sampled chunks match checksums."),
    generation_check(PREFETCH, "references_exist", "prefetch", "Every entry is a chunk of the layout at its address."),
    generation_check(CURRENT, "readable", "publish", "The pointer leads to a committed layout, none older than this."),
]
