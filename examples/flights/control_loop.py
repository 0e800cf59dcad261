"""Dagster beside the training job: its daemon as a child process, and waiting for the layouts that it publishes."""

import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from foreshard.errors import DeadlineError, ForeshardError
from foreshard.keys import LayoutRef, generation_key, parse_generation_key
from foreshard.shards.repository import Repository

if TYPE_CHECKING:
    from dagster import DagsterRun

ROOT: Final = Path(__file__).resolve().parents[2]
_POLL_SECONDS: Final = 0.2
_STAGE_SECONDS: Final = 1.0
_OWNER: Final = "FORESHARD_DEMO"
RUN_LOCK: Final = "lock"
UI_LOCK: Final = "ui.lock"
_PARTITION: Final = "dagster/partition"
_PR_SET_PDEATHSIG: Final = 1


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock of a file."""
    if not path.exists():
        return False
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def hold_for_life(path: Path) -> None:
    """Hold the lock of a file until this process ends, also as another program (`exec`)."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(handle, fcntl.LOCK_EX)
    os.set_inheritable(handle, True)  # noqa: FBT003 - positional only


def environment(home: Path, config: Path) -> dict[str, str]:
    """Return the environment of a Dagster process: which instance, which configuration, and no telemetry."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {
        **inherited,
        "DAGSTER_HOME": str(home),
        "FORESHARD_CONFIG": str(config),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }


def prepare_home(home: Path) -> None:
    """Make the Dagster instance's folder with its settings, if it is not there."""
    home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ROOT / "deploy" / "dagster.local.yaml", home / "dagster.yaml")


def stop_strays(home: Path) -> int:
    """Kill Dagster processes that a killed run left behind on this instance; return how many there were.

    The caller holds the lock of the folder, so nobody else trains on the instance. Only processes that `daemon` marked
    as its own in their environment are touched: the daemon, its code servers and the runs they started, not `make ui`.
    """
    marker = f"\0{_OWNER}={home}\0".encode()
    strays = 0
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        try:
            mine = marker in b"\0" + (folder / "environ").read_bytes() + b"\0"
            if mine and pid != os.getpid():
                os.kill(pid, signal.SIGKILL)
                strays += 1
        except OSError:  # it ended meanwhile, or belongs to another user
            continue
    return strays


@contextmanager
def daemon(home: Path, config: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `dagster-daemon` (sensors, schedules, retries) on the instance while the context lasts.

    Its output goes to `daemon.log` in the instance's folder. It ends with this process, even if that is killed.
    """
    command = [str(Path(sys.executable).with_name("dagster-daemon")), "run", "-w", str(ROOT / "workspace.yaml")]
    with (home / "daemon.log").open("ab") as log:
        child = subprocess.Popen(  # noqa: S603 - our own virtual environment's program
            command,
            cwd=ROOT,
            env={**environment(home, config), _OWNER: str(home)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - prctl alone, before any thread exists in the child
        )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
        stop_strays(home)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class ControlLoop:
    """Waits for layouts, and says what Dagster is doing meanwhile.

    Args:
        repository: the dataset's repository.
        home: the Dagster instance's folder.
        run: the training job's name.
        every: a boundary is an epoch divisible by this.
        deadline: seconds a generation may take.
    """

    def __init__(self, repository: Repository, home: Path, run: str, *, every: int, deadline: float) -> None:
        from dagster import DagsterInstance

        self._repository, self._run, self._every, self._deadline = repository, run, every, deadline
        self._instance: DagsterInstance = DagsterInstance.from_config(str(home))
        self._daemon: subprocess.Popen[bytes] | None = None

    def recover(self) -> int:
        """Have the daemon try every boundary's unfinished run again from where it failed; return how many there are.

        Call it while no daemon runs. A run whose process died with a killed `make run` counts as failed. Dagster's own
        limit of retries is for runs that fail by themselves: starting `make run` again asks for one more.
        """
        from dagster import DagsterRunStatus
        from dagster._core.storage.tags import WILL_RETRY_TAG

        from dagster_project.recovery import fail_orphaned_runs

        orphans = fail_orphaned_runs(self._instance)
        newest: dict[str | None, DagsterRun] = {}
        for run in self._instance.get_runs():  # newest first
            newest.setdefault(run.tags.get(_PARTITION), run)
        failed = [run for run in newest.values() if run.status == DagsterRunStatus.FAILURE]
        for run in failed:
            if run.run_id not in orphans:
                # The daemon acts on failures that it has not seen yet.
                self._instance.report_run_failed(run, message="`make run` was started again: one more try.")
            self._instance.add_run_tags(run.run_id, {WILL_RETRY_TAG: "true"})
        return len(failed)

    def settle(self) -> None:
        """Wait until no run is in progress: a layout is current a moment before the run that published it ends.

        Raises:
            DeadlineError: it took too long.
        """
        from dagster import RunsFilter
        from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

        start = time.monotonic()
        unfinished = RunsFilter(statuses=list(NOT_FINISHED_STATUSES))
        while runs := self._instance.get_runs(unfinished, limit=1):
            self._check_daemon()
            if time.monotonic() - start > self._deadline:
                raise DeadlineError(
                    f"Dagster run {runs[0].run_id} did not end within {self._deadline:.0f} s; `make ui` shows its steps"
                )
            time.sleep(_POLL_SECONDS)

    def watch(self, daemon: "subprocess.Popen[bytes]") -> None:
        """Have every wait end with an error as soon as this daemon has ended."""
        self._daemon = daemon

    def _check_daemon(self) -> None:
        if self._daemon is not None and (code := self._daemon.poll()) is not None:
            raise ForeshardError(
                f"dagster-daemon ended with exit code {code} while the training waited for it; see daemon.log in the "
                "Dagster folder, then start again to resume"
            )

    def boundary(self, epoch: int) -> int:
        """Return the boundary whose layout an epoch is trained on."""
        return (epoch - 1) // self._every * self._every

    def layout(self, epoch: int, say: Callable[[str], None]) -> LayoutRef:
        """Return the layout of an epoch's boundary, waiting until Dagster has published it.

        Raises:
            ForeshardError: the generation's run failed for good, or the daemon ended.
            DeadlineError: it took too long.
        """
        key = generation_key(self._run, self.boundary(epoch))
        start, asked = time.monotonic(), 0.0
        while True:
            current = self._repository.current()
            if current is not None and current.ref.generation == key:
                return current.ref
            if current is not None and parse_generation_key(current.ref.generation)[1] > self.boundary(epoch):
                # A resumed job trains an epoch again whose successor layout is out already.
                return self._repository.layouts(key)[-1]
            now = time.monotonic()
            if now - start > self._deadline:
                raise DeadlineError(
                    f"generation {key} was not published within {self._deadline:.0f} s; `make ui` shows its run, "
                    "daemon.log in the Dagster folder what the daemon says"
                )
            if now - asked > _STAGE_SECONDS:
                self._check_daemon()
                say(self._stage(key))
                asked = now
            time.sleep(_POLL_SECONDS)

    def _stage(self, key: str) -> str:
        """Say in a few words what the generation's run is doing."""
        from dagster import DagsterRunStatus, RunsFilter

        runs = self._instance.get_runs(RunsFilter(tags={_PARTITION: key}), limit=1)
        if not runs:
            return f"{key}: waiting for the sensor"
        run = runs[0]
        if run.status == DagsterRunStatus.FAILURE and not _will_retry(run):
            raise ForeshardError(f"generation {key} failed in Dagster: {self._reason(run)}")
        return f"{key}: {self._newest_step(run)}"

    def _reason(self, run: "DagsterRun") -> str:
        """Return the message of the first step that failed, or of the run where none did."""
        from dagster import DagsterEventType

        for entry in self._instance.all_logs(run.run_id, of_type=DagsterEventType.STEP_FAILURE):
            data = entry.get_dagster_event().step_failure_data
            name = str(entry.step_key).replace("__", "/")
            if data.user_failure_data is not None and data.user_failure_data.description:
                return f"{name}: {data.user_failure_data.description}"
            error = data.error
            while error is not None and error.cause is not None:
                error = error.cause
            if error is not None:
                return f"{name}: {error.message.strip()}"
        last = self._instance.all_logs(run.run_id, of_type=DagsterEventType.RUN_FAILURE)
        return str(last[-1].get_dagster_event().message) if last else f"run {run.run_id}; `make ui` shows why"

    def _newest_step(self, run: "DagsterRun") -> str:
        statistics: Any = self._instance.get_run_step_stats(run.run_id)
        begun = [step for step in statistics if step.start_time is not None]
        if not begun:
            return f"run {run.status.value.lower()}"
        return max(begun, key=lambda step: step.start_time).step_key.replace("__", "/")


def _will_retry(run: "DagsterRun") -> bool:
    """Dagster decides after the failure event; until it has said no, a retry may come."""
    return run.tags.get("dagster/will_retry", "true") != "false"
