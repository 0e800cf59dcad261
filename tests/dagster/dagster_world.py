"""The code location, and the small world of tests/chain to run it on."""

import sys
from functools import cache
from pathlib import Path

import dagster as dg

sys.path.append(str(Path(__file__).parents[1] / "chain"))

import chain_world

from dagster_project.definitions import defs
from dagster_project.partitions import GENERATION

world = chain_world


@cache
def location() -> dg.Definitions:
    """Return the definitions as Dagster loads them."""
    return defs()


def execute(instance: dg.DagsterInstance, job: str, generation: str) -> dg.ExecuteInProcessResult:
    """Run a job for a generation in this process; failures are left in the result."""
    instance.add_dynamic_partitions(GENERATION, [generation])
    resolved = location().resolve_job_def(job)
    return resolved.execute_in_process(partition_key=generation, instance=instance, raise_on_error=False)


def materialized(instance: dg.DagsterInstance, key: dg.AssetKey) -> set[str]:
    """Return the generations for which an asset was materialised."""
    return instance.get_materialized_partitions(key)
