"""What is left of a crash of the whole process tree does not block the next start."""

import dagster as dg

from dagster_project.recovery import fail_orphaned_runs


@dg.op(pool="object_store")
def nothing():
    pass


@dg.job(executor_def=dg.in_process_executor)
def idle():
    nothing()


def test_runs_in_progress_fail_and_give_their_pool_slots_back(tmp_path):
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        storage = instance.event_log_storage
        storage.set_concurrency_slots("object_store", 1)
        started, done, waiting = (
            instance.create_run_for_job(idle, status=status)
            for status in (
                dg.DagsterRunStatus.STARTED,
                dg.DagsterRunStatus.SUCCESS,
                dg.DagsterRunStatus.NOT_STARTED,
            )
        )
        claim = storage.claim_concurrency_slot("object_store", started.run_id, "nothing")
        assert claim.is_claimed
        assert fail_orphaned_runs(instance) == [started.run_id]
        assert instance.get_run_by_id(started.run_id).status == dg.DagsterRunStatus.FAILURE
        assert instance.get_run_by_id(done.run_id).status == dg.DagsterRunStatus.SUCCESS
        assert instance.get_run_by_id(waiting.run_id).status == dg.DagsterRunStatus.NOT_STARTED
        assert storage.claim_concurrency_slot("object_store", done.run_id, "nothing").is_claimed
        assert fail_orphaned_runs(instance) == []
