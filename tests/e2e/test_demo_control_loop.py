"""The demo's side of the control loop: what it does about failed runs, dead daemons and stray processes."""

import subprocess
import sys

import dagster as dg
import pytest

from examples.flights import control_loop
from examples.flights.control_loop import ControlLoop
from foreshard.errors import ForeshardError
from foreshard.shards.repository import Repository
from foreshard.storage import ObjectStore

KEY = "demo.e000000"
TAGS = {"dagster/partition": KEY}


@dg.op
def refuses():
    raise dg.Failure("node n0 needs 7 bytes more; raise its memory", allow_retries=False)


@dg.op
def breaks():
    raise ValueError("no such thing")


@dg.job(executor_def=dg.in_process_executor)
def refusing():
    refuses()


@dg.job(executor_def=dg.in_process_executor)
def breaking():
    breaks()


@pytest.fixture
def home(tmp_path):
    control_loop.prepare_home(tmp_path)
    return tmp_path


@pytest.fixture
def instance(home):
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


@pytest.fixture
def loop(home):
    return ControlLoop(Repository(ObjectStore.open("memory://"), "demo"), home, "demo", every=2, deadline=30)


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        (refusing, "refuses: node n0 needs 7 bytes more; raise its memory"),
        (breaking, "breaks: ValueError: no such thing"),
    ],
)
def test_wait_for_a_layout_ends_with_the_cause_of_the_failed_step(instance, loop, job, reason):
    assert not job.execute_in_process(instance=instance, tags=TAGS, raise_on_error=False).success
    with pytest.raises(ForeshardError, match=f"generation {KEY} failed in Dagster: {reason}"):
        loop.layout(1, lambda _: None)


def test_start_after_a_failure_asks_the_daemon_for_one_more_try(instance, loop):
    for _ in range(4):  # more than `run_retries` allows
        refusing.execute_in_process(instance=instance, tags=TAGS, raise_on_error=False)
    newest = instance.get_runs()[0]
    assert newest.tags["dagster/will_retry"] == "false"
    failures = {dg.DagsterEventType.RUN_FAILURE}
    seen = len(instance.all_logs(newest.run_id, of_type=failures))
    assert loop.recover() == 1
    assert instance.get_run_by_id(newest.run_id).tags["dagster/will_retry"] == "true"
    assert len(instance.all_logs(newest.run_id, of_type=failures)) == seen + 1


def test_start_after_a_crash_asks_for_one_more_try_of_what_was_in_progress(instance, loop):
    run = instance.create_run_for_job(refusing, tags=TAGS, status=dg.DagsterRunStatus.STARTED)
    assert loop.recover() == 1
    run = instance.get_run_by_id(run.run_id)
    assert run.status == dg.DagsterRunStatus.FAILURE
    assert run.tags["dagster/will_retry"] == "true"


def test_start_after_a_success_asks_for_nothing(instance, loop):
    refusing.execute_in_process(instance=instance, tags=TAGS, raise_on_error=False)
    instance.create_run_for_job(refusing, tags=TAGS, status=dg.DagsterRunStatus.SUCCESS)
    assert loop.recover() == 0


def test_wait_for_a_layout_ends_with_the_daemon(loop):
    with subprocess.Popen([sys.executable, "-ISc", "raise SystemExit(3)"]) as daemon:
        daemon.wait()
        loop.watch(daemon)
        with pytest.raises(ForeshardError, match="dagster-daemon ended with exit code 3"):
            loop.layout(1, lambda _: None)


def test_strays_are_the_processes_of_the_daemon_and_nobody_else(home):
    sleep = [sys.executable, "-ISc", "import time; time.sleep(60)"]
    owned = {**control_loop.environment(home, home), "FORESHARD_DEMO": str(home)}
    with (
        subprocess.Popen(sleep, env=owned) as run,
        subprocess.Popen(sleep, env=control_loop.environment(home, home)) as ui,
        subprocess.Popen(sleep, env={**owned, "FORESHARD_DEMO": f"{home}2"}) as other,
    ):
        assert control_loop.stop_strays(home) == 1
        assert run.wait(10) == -9
        assert ui.poll() is None
        assert other.poll() is None
        ui.kill()
        other.kill()
