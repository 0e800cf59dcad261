"""What benchmarks share: interleaved rounds, ratios with their spread, fresh processes, S3 servers and reports."""

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

ROOT: Final = Path(__file__).parent.parent
ROUNDS: Final = 5

_PACKAGES: Final = ("numpy", "pyarrow", "obstore", "mosaicml-streaming", "litdata", "webdataset", "torch")
_FIGURE_COLUMNS: Final = ("figure", "measured", "target", "met")
_KIB_PER_MB: Final = 1e6 / 1024

# Starts the command from a small process: on Linux a program's peak begins with that of the process it was forked from.
_MEASURED: Final = """
import json, os, subprocess, sys
process = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(process.pid, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), usage.ru_maxrss, usage.ru_utime + usage.ru_stime]))
"""

# Wide enough for the tables where there is no terminal to ask.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


@dataclass(frozen=True)
class Options:
    """How a benchmark was called.

    Attributes:
        quick: small data, to see that it works; the figures mean little.
        json: file for the figures, beside the last line that is printed.
        data: folder of data that the benchmark needs and cannot fetch; None if it needs none.
    """

    quick: bool
    json: Path | None
    data: Path | None = None


def parse_options(
    name: str, description: str, arguments: Sequence[str] | None = None, *, data: Path | None = None
) -> Options:
    """Parse a benchmark's command line; one that needs a folder of data names where it lies unless told otherwise."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--quick", action="store_true", help="small data: shows that it works, not how fast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE as well")
    if data is not None:
        parser.add_argument(
            "--data", type=Path, metavar="FOLDER", default=data, help="where the data lies (%(default)s)"
        )
    given = parser.parse_args(arguments)
    return Options(given.quick, given.json, given.data if data is not None else None)


# -- rounds --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ratio:
    """How often one contender's median fits into another's, with the lowest and highest ratio of a single round."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def interleave(contenders: Mapping[str, Callable[[], float]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Run contenders in turn, A B A B ..., so that what disturbs the machine disturbs all of them alike.

    Every contender runs once more at first, uncounted: first runs pay for imports, page cache and connections. Before
    each run the kernel writes out what earlier ones left, so that nobody pays for another's bytes.

    Args:
        contenders: by name, what runs once and returns the seconds that count.
        rounds: how many runs of each count.

    Returns:
        Seconds by name, in the order of the rounds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, run in contenders.items():
            os.sync()
            took = run()
            if number:
                seconds[name].append(took)
    return seconds


def ratio(slow: Sequence[float], quick: Sequence[float]) -> Ratio:
    """Return how many times as long `slow` takes as `quick`; both hold one value a round."""
    each = [a / b for a, b in zip(slow, quick, strict=True)]
    return Ratio(statistics.median(slow) / statistics.median(quick), min(each), max(each))


# -- processes -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fresh:
    """What a process of its own returned, and what it took.

    Attributes:
        answer: what the task returned.
        peak_rss_mb: peak resident memory in MB, that of its largest child if that was larger.
        cpu_s: CPU seconds of the process and of all children that it waited for, imports included.
    """

    answer: Any
    peak_rss_mb: float
    cpu_s: float


def run_fresh(task: str, *arguments: str | int | Path) -> Fresh:
    """Run a task of `benchmarks.tasks` in a new process that has loaded nothing else.

    Raises:
        subprocess.CalledProcessError: it failed; what it said is on stderr.
    """
    command = [sys.executable, "-m", "benchmarks.tasks", task, *map(str, arguments)]
    done = subprocess.run(  # noqa: S603 - our own module, no shell
        [sys.executable, "-ISc", _MEASURED, *command], check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    *answer, measured = done.stdout.splitlines()
    code, peak, cpu = json.loads(measured)
    if code:
        raise subprocess.CalledProcessError(code, command)
    unit = 1e6 if sys.platform == "darwin" else _KIB_PER_MB
    return Fresh(json.loads(answer[-1]), peak / unit, cpu)


# -- servers -------------------------------------------------------------------------------------------


def s3_kinds() -> list[str]:
    """Return the S3 servers that can be started here: SeaweedFS from its wheel, MinIO where it is on PATH."""
    return list(_servers().SERVERS)


@contextmanager
def s3_server(kind: str) -> Generator[Any]:
    """Run a `tests/servers.py` server with its credentials in the environment; it takes its data with it."""
    servers = _servers()
    with servers.SERVERS[kind]() as server:
        changed = dict.fromkeys(servers.FOREIGN_VARIABLES) | server.environment
        before = {name: os.environ.get(name) for name in changed}
        _set_environment(changed)
        try:
            yield server
        finally:
            _set_environment(before)


def _servers() -> Any:  # noqa: ANN401 - a module that is found at run time
    if str(ROOT / "tests") not in sys.path:
        sys.path.append(str(ROOT / "tests"))
    return importlib.import_module("servers")


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


# -- reports -------------------------------------------------------------------------------------------


def environment() -> dict[str, Any]:
    """Return what figures depend on: cores, memory, load and versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    versions: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "missing"
    return {
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 1e9, 1),
        "load": [round(load, 2) for load in os.getloadavg()],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions,
    }


def print_environment() -> None:
    """Print what figures depend on, in one line."""
    found = environment()
    versions = ", ".join(f"{name} {found[name]}" for name in ("python", *_PACKAGES))
    console.print(
        f"{found['cores']} cores, {found['memory_gb']} GB, {found['system']}, load {found['load'][0]}; {versions}",
        style="dim",
        soft_wrap=True,
    )


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows of figures; all columns but the first are aligned to the right."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(str, row))
    console.print(table)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return the median of measured values with the lowest and the highest."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


@dataclass(frozen=True)
class Figure:
    """One figure that a benchmark is about.

    Attributes:
        key: its name in the JSON line.
        value: what was measured; None if it was not.
        target: what is aimed at.
        at_least: whether the target is a floor; else it is a ceiling.
    """

    key: str
    value: float | None
    target: float
    at_least: bool

    @property
    def met(self) -> bool:
        """Whether the target was reached."""
        if self.value is None:
            return False
        return self.value >= self.target if self.at_least else self.value <= self.target


def finish(options: Options, figures: Sequence[Figure], details: Mapping[str, Any]) -> None:
    """Print the figures beside their targets and, as the last line, as JSON; write them to the file asked for.

    Args:
        options: how the benchmark was called.
        figures: what it is about.
        details: what else goes into the JSON.
    """
    rows = [
        (
            figure.key,
            "not measured" if figure.value is None else f"{figure.value:.3g}",
            f"{'at least' if figure.at_least else 'at most'} {figure.target:g}",
            "yes" if figure.met else "no",
        )
        for figure in figures
    ]
    print_table("figures" + (" (--quick: too small to mean much)" if options.quick else ""), _FIGURE_COLUMNS, rows)
    values = {figure.key: figure.value and round(figure.value, 4) for figure in figures}
    line = json.dumps({**values, "quick": options.quick, **details, "environment": environment()})
    if options.json is not None:
        options.json.write_text(line + "\n")
    print(line)
