"""Runs the flights demo small, as a person does, in a process of its own; kills it; looks at what it left behind."""

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import yaml

from examples.flights import control_loop
from foreshard.shards.repository import Repository
from foreshard.storage import ObjectStore

ROWS, EPOCHS, EVERY = 6000, 4, 2
GENERATIONS = ["demo.e000000", "demo.e000002"]
LAST_LINE = "order identical: yes, model identical: yes"
REPORT = ["epochs.csv", "epochs.json", "figures.png", "heat.png", "index.html"]
RUN_SECONDS = 150


@dataclass(frozen=True)
class Demo:
    """A folder with a configuration and a home for the demo.

    Attributes:
        folder: holds both.
        environment: variables beside the test's own.
    """

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def dagster_home(self) -> Path:
        return self.home / "dagster"

    def configure(self, store: Mapping[str, str] | None = None, **changes: Mapping[str, object]) -> None:
        """Write the configuration; `changes` replace settings of a section, `store` the whole one."""
        config = {
            "dataset": {
                "name": "demo",
                "source": {"url": "file:home/source"},
                "target": "late",
                "features": ["dep_delay", "month", "hour", "distance", "carrier", "origin"],
                "seed": 20131,
            },
            "store": dict(store or {"url": "file:home/store"}),
            "cluster": {"nodes": [{"name": f"node{i}", "memory": 4_000_000} for i in range(2)]},
            "loader": {"global_batch": 64, "cache_fraction": 0.2},
            "reshard": {
                "every": EVERY,
                "horizon": 2,
                "chunk_overhead": 0.000002,
                "min_chunk_rows": 16,
                "max_chunk_rows": 64,
            },
        }
        for section, settings in changes.items():
            config[section] = {**config[section], **settings}
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "foreshard.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")

    def start(self, *arguments: str, output: str = "output") -> subprocess.Popen[str]:
        """Start the demo; later arguments win. What it prints goes to the file `output`."""
        command = [sys.executable, "-m", "examples.flights", "--config", str(self.folder / "foreshard.yaml")]
        command += ["--home", str(self.home), "--rows", str(ROWS), "--epochs", str(EPOCHS), "--deadline", "90"]
        # Bytecode spares every Dagster process seconds of imports.
        own = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        with (self.folder / output).open("w", encoding="utf-8") as printed:
            return subprocess.Popen(
                [*command, *arguments],
                cwd=control_loop.ROOT,
                env={**own, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def output(self, name: str = "output") -> str:
        return (self.folder / name).read_text(encoding="utf-8")

    def run(self, *arguments: str, output: str = "output", seconds: float = RUN_SECONDS) -> tuple[int, str]:
        """Run the demo to its end and return its exit code and what it printed."""
        with self.start(*arguments, output=output) as process:
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired as error:
                kill_all(tree(process.pid))
                raise AssertionError(f"the demo took over {seconds} s:\n{self.output(output)}") from error
        return code, self.output(output)

    def kill_when(self, ready: Callable[[], bool], *, whole_tree: bool) -> None:
        """Start the demo and kill it, or it and everything that it started, as soon as something has happened."""
        with self.start() as process:
            limit = time.monotonic() + RUN_SECONDS
            while not ready():
                assert process.poll() is None, f"ended before it was killed:\n{self.output()}"
                assert time.monotonic() < limit, f"nothing to be killed at:\n{self.output()}"
                time.sleep(0.005)
            kill_all(tree(process.pid) if whole_tree else [process.pid])
            assert process.wait(10) == -signal.SIGKILL

    def happened(self, pattern: str) -> bool:
        """Whether Dagster's daemon or its runs logged a line like this."""
        log = self.dagster_home / "daemon.log"
        return log.exists() and re.search(pattern, log.read_text(encoding="utf-8", errors="replace")) is not None

    def repository(self) -> Repository:
        return Repository(ObjectStore.open((self.home / "store").as_uri()), "demo")

    def runs(self) -> dict[str, list[dg.DagsterRunStatus]]:
        """Return the states of each generation's Dagster runs, oldest first."""
        found: dict[str, list[dg.DagsterRunStatus]] = {}
        with dg.DagsterInstance.from_config(str(self.dagster_home)) as instance:
            for run in reversed(instance.get_runs()):
                found.setdefault(run.tags["dagster/partition"], []).append(run.status)
        return found

    def strays(self) -> list[int]:
        """Return the processes that name this demo's folder in their command line or environment."""
        mark = str(self.folder).encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                told = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if mark in told and int(folder.name) != os.getpid():
                found.append(int(folder.name))
        return found


def undisturbed_run(base: Path) -> tuple[Demo, int, str]:
    """Run the demo once from start to end; all workers of a test session share that one run.

    Args:
        base: the session's folder, of this worker or of all.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    demo, done = Demo(base / "undisturbed"), base / "undisturbed.code"
    with (base / "undisturbed.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            demo.configure()
            done.write_text(str(demo.run()[0]), encoding="utf-8")
    return demo, int(done.read_text(encoding="utf-8")), demo.output()


def tree(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(folder.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def kill_all(pids: list[int]) -> None:
    """Kill processes; those that have ended meanwhile are passed over."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def assert_finished(code: int, output: str) -> None:
    """The demo came to its end, and both arms saw the same order and made the same model."""
    assert code == 0, output
    assert output.rstrip().splitlines()[-1] == LAST_LINE, output


def assert_layouts_sound(repository: Repository) -> None:
    """There is one published layout for each boundary that has a reader, and every byte of it is as it claims."""
    assert repository.generations() == GENERATIONS
    for generation in GENERATIONS:
        (ref,) = repository.layouts(generation)
        report = repository.verify(ref)
        assert report.problems == ()
        assert report.rows == ROWS
    assert repository.current().ref.generation == GENERATIONS[-1]
