"""The bytes: shard objects with their consistency metadata, and what each node should hold of them in memory."""

import dagster as dg

from assets.keys import OBJECTS, OWNERS, PLAN, PREFETCH
from assets.report import OBJECT_STORE_POOL, TRANSIENT_ERRORS, run_stage
from dagster_project.partitions import generation
from resources import ProjectResource


@dg.asset(
    key=OBJECTS,
    deps=[PLAN],
    partitions_def=generation,
    group_name="shards",
    kinds={"arrow", "s3"},
    owners=OWNERS,
    code_version="2",
    pool=OBJECT_STORE_POOL,
    retry_policy=TRANSIENT_ERRORS,
)
def shards_objects(context: dg.AssetExecutionContext, project: ProjectResource) -> dg.MaterializeResult:
    """The materialised shards and how each chunk was seeded and partitioned; bytes that exist are not written again."""

    def progress(done: int, total: int) -> None:
        if done * 10 // total > (done - 1) * 10 // total:  # every tenth of them
            context.log.info("%d of %d shards are in place", done, total)

    return run_stage(lambda: project.chain().shards(context.partition_key, progress))


@dg.asset(
    key=PREFETCH,
    deps=[PLAN, OBJECTS],
    partitions_def=generation,
    group_name="shards",
    kinds={"arrow"},
    owners=OWNERS,
    code_version="1",
    pool=OBJECT_STORE_POOL,
    retry_policy=TRANSIENT_ERRORS,
)
def shards_prefetch_manifest(context: dg.AssetExecutionContext, project: ProjectResource) -> dg.MaterializeResult:
    """Per node: which chunks to have in memory, in which order, with probability, deadline phase and byte range."""
    return run_stage(lambda: project.chain().prefetch(context.partition_key))
