"""After a crash of the whole process tree: runs that nobody executes any more are marked as failed.

The default run launcher cannot ask whether a run's process lives, so the daemon would wait for such a run for ever and
its pool slot would stay taken. Marked as failed, it is retried by the daemon from the step that failed (`run_retries`).
"""

import dagster as dg

_IN_PROGRESS = (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)


def fail_orphaned_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark every run in progress as failed and free the pool slots it held.

    Call it only while no daemon, webserver or code location of this instance runs: it takes every run that is still
    in progress for an orphan.

    Returns:
        Ids of the runs that were in progress.
    """
    orphans = list(instance.get_runs(dg.RunsFilter(statuses=list(_IN_PROGRESS))))
    for run in orphans:
        instance.report_run_failed(run, message="The process that executed this run is gone.")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return [run.run_id for run in orphans]


def main() -> None:
    """Clean up the instance of `$DAGSTER_HOME`; `python -m dagster_project.recovery`."""
    with dg.DagsterInstance.get() as instance:
        fail_orphaned_runs(instance)


if __name__ == "__main__":
    main()
