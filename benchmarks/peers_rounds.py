"""Rounds of `benchmarks.loader_peers`: where datasets are, one epoch in a fresh process, tuning, the AU search."""

import json
import math
import statistics
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks import harness
from benchmarks.harness import console
from benchmarks.peers_contenders import PEER_CONTENDERS, Run
from benchmarks.peers_data import PEERS, Case, expected_checksums, publish, upload

OURS: Final = "foreshard"
UTILISATION: Final = 0.9
_WRITERS_AT_ONCE: Final = 2


@dataclass(frozen=True)
class Place:
    """The datasets of a case on a server.

    Attributes:
        case: what is read.
        root: the bucket's URL.
        endpoint: the server; None for a local folder.
        files: names of each peer's objects.
        expected: what `checksums` of all batches must add up to.
        caches: a folder for what contenders keep on disk.
    """

    case: Case
    root: str
    endpoint: str | None
    files: dict[str, list[str]]
    expected: list[int]
    caches: str

    def run(self, contender: str, settings: dict[str, Any], **changed: Any) -> Run:  # noqa: ANN401 - fields of `Run`
        """Return an epoch of a contender."""
        kind, rows = self.case.kind, self.case.rows
        files = self.files.get(contender, [])
        return Run(contender, kind, rows, self.url(contender), self.endpoint, files, self.caches, settings, **changed)

    def url(self, contender: str) -> str:
        """Return where a contender's dataset is."""
        return f"{self.root}/{self.case.kind}-{contender}"


def write_datasets(case: Case) -> dict[str, Path]:
    """Write every peer's dataset, or find it where an earlier run left it; return their folders."""
    case.workload()  # made once, here

    def write(peer: str) -> Path:
        return Path(harness.run_fresh("peer_task", "write_dataset", peer, case.kind, case.rows).answer)

    with ThreadPoolExecutor(_WRITERS_AT_ONCE) as pool:
        return dict(zip(PEERS, pool.map(write, PEERS), strict=True))


def settle(case: Case, folders: dict[str, Path], root: str, endpoint: str, caches: str) -> Place:
    """Upload every contender's dataset of a case."""
    place = Place(case, root, endpoint, {}, expected_checksums(case.workload()), caches)
    for peer, folder in folders.items():
        place.files[peer] = [name for name in upload(folder, place.url(peer), endpoint) if name.endswith(".tar")]
    publish(case, place.url(OURS), endpoint)
    return place


# -- epochs --------------------------------------------------------------------------------------------


@dataclass
class Entry:
    """A row of a table: a contender, how it is run, and what its counted runs took.

    Attributes:
        name: what the table calls it.
        task: runs it once and returns the answer, with `seconds` and `rows`, or with `error`.
        answers: one a run.
        failures: errors of runs that were then done again.
        error: why it has no figures; None if it has.
    """

    name: str
    task: Callable[[], dict[str, Any]]
    answers: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    error: str | None = None

    def once(self) -> float:
        """Run once, and once again if that fails; return seconds per row, nan if that fails too or has before."""
        if self.error is None:
            answer = tried(self.task, self.failures)
            self.error = answer.get("error")
            if self.error is None:
                self.answers.append(answer)
        return math.nan if self.error else self.answers[-1]["seconds"] / self.answers[-1]["rows"]

    def values(self, key: str) -> list[float]:
        """Return a value of every counted run."""
        return [answer[key] for answer in self.answers]

    @property
    def per_row(self) -> list[float]:
        """Seconds per row of every counted run."""
        return [answer["seconds"] / answer["rows"] for answer in self.answers]

    @property
    def cpu_per_row(self) -> float:
        """CPU seconds per row, the median."""
        return statistics.median(answer["cpu_s"] / answer["rows"] for answer in self.answers)


def tried(task: Callable[[], dict[str, Any]], failures: list[str]) -> dict[str, Any]:
    """Return a task's answer; one that failed is noted and the task done once more."""
    answer = task()
    if "error" not in answer:
        return answer
    failures.append(answer["error"])
    return task()


def read_once(place: Place, run: Run) -> dict[str, Any]:
    """Read an epoch in a fresh process and check that its rows were those of the dataset."""
    try:
        fresh = harness.run_fresh("peer_task", "read_epoch", json.dumps(vars(run)))
    except subprocess.CalledProcessError as error:
        return {"error": f"its process ended with exit status {error.returncode}, see above"}
    answer = {**fresh.answer, "peak_rss_mb": fresh.peak_rss_mb, "process_cpu_s": fresh.cpu_s}
    return checked(answer, place, run)


def checked(answer: dict[str, Any], place: Place, run: Run) -> dict[str, Any]:
    """Return an answer, as an error if it holds other rows than the dataset or too few."""
    if "error" in answer:
        return answer
    if run.limit_s is None and not answer["whole"]:
        return {"error": f"{answer['rows']} of {run.rows} rows arrived"}
    high = any(found > expected for found, expected in zip(answer["sums"], place.expected, strict=True))
    if high or min(answer["sums"]) < 0 or (answer["whole"] and answer["sums"] != place.expected):
        return {"error": f"other values arrived: sums {answer['sums']} instead of {place.expected}"}
    return answer


def raw_once(place: Place) -> dict[str, Any]:
    """Get foreshard's shards in a fresh process; return the quickest number of threads."""
    fresh = harness.run_fresh("peer_task", "raw_gets", place.url(OURS), place.endpoint)
    return {**fresh.answer, "rows": place.case.rows, "peak_rss_mb": fresh.peak_rss_mb, "process_cpu_s": fresh.cpu_s}


def run_rounds(entries: Sequence[Entry], rounds: int) -> None:
    """Run all entries in turn; the first round does not count."""

    def told(entry: Entry) -> Callable[[], float]:
        def once() -> float:
            took = entry.once()
            rate = "failed" if math.isnan(took) else f"{1 / took:,.0f} rows/s"
            console.print(f"  {entry.name}: {rate}", style="dim")
            return took

        return once

    harness.interleave({entry.name: told(entry) for entry in entries}, rounds)
    for entry in entries:
        del entry.answers[:1]


# -- tuning --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tuned:
    """The settings of a peer that were tried, each with what it took, and the best of them.

    Attributes:
        settings: the best settings; those of the first if none worked.
        tried: every setting with its answer.
    """

    settings: dict[str, Any]
    tried: list[tuple[dict[str, Any], dict[str, Any]]]

    def best_per_workers(self) -> list[dict[str, Any]]:
        """Return the quickest settings of each number of workers."""
        best: dict[int, tuple[float, dict[str, Any]]] = {}
        for settings, answer in self.tried:
            rate = _score(answer)
            if rate > best.get(settings["workers"], (0.0, {}))[0]:
                best[settings["workers"]] = rate, settings
        return [settings for _, settings in best.values()]


def tune(place: Place, peer: str, limit_s: float, *, few: bool = False) -> Tuned:
    """Try every setting of a peer's grid, or the first and the last, for a few seconds each."""
    choices = PEER_CONTENDERS[peer].settings()
    choices = [choices[0], choices[-1]] if few else choices
    return _try(place, [place.run(peer, settings, limit_s=limit_s) for settings in choices], _score)


def tune_for_rate(place: Place, peer: str, choices: list[dict[str, Any]], rate: float, limit_s: float) -> Tuned:
    """Try settings of a peer under an emulated accelerator of one rate; the best keeps it the busiest."""
    runs = [place.run(peer, settings, rate=rate, limit_s=limit_s) for settings in choices]
    return _try(place, runs, lambda answer: answer.get("utilisation", 0.0))


def _try(place: Place, runs: list[Run], score: Callable[[dict[str, Any]], float]) -> Tuned:
    try:
        answers = harness.run_fresh("peer_task", "tune", json.dumps([vars(run) for run in runs])).answer
    except subprocess.CalledProcessError as error:
        answers = [{"error": f"exit status {error.returncode}, see above"}] * len(runs)
    answers = [checked(answer, place, run) for run, answer in zip(runs, answers, strict=True)]
    tried = [(run.settings, answer) for run, answer in zip(runs, answers, strict=True)]
    return Tuned(max(tried, key=lambda each: score(each[1]))[0], tried)


def _score(answer: dict[str, Any]) -> float:
    return 0.0 if "error" in answer else answer["rows"] / answer["seconds"]


# -- accelerator utilisation ---------------------------------------------------------------------------


@dataclass
class RateSearch:
    """Finds the highest rate that passes, by halving until one does and then between the last that did and did not.

    Attributes:
        rate: what to try next.
        passed: the highest rate that passed, 0 if none did.
        failed: the lowest that did not.
    """

    rate: float
    passed: float = 0.0
    failed: float = math.inf

    def record(self, passes: bool) -> None:
        """Note whether `rate` passed, and move on to the next."""
        if passes:
            self.passed = self.rate
        else:
            self.failed = self.rate
        if not self.passed:
            self.rate = self.failed / 2
        elif math.isinf(self.failed):
            self.rate = self.passed * 1.25
        else:
            self.rate = math.sqrt(self.passed * self.failed)


@dataclass
class AcceleratorSearch:
    """The highest rate of an emulated accelerator that one contender keeps 90 % busy over a cold epoch.

    Attributes:
        name: the contender.
        run: its epoch.
        search: where the search stands.
        steps: each rate that was tried, with the utilisation.
        failures: errors of runs that were then done again.
        error: why it ended.
    """

    name: str
    run: Run
    search: RateSearch
    steps: list[tuple[float, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    error: str | None = None

    def step(self, place: Place) -> None:
        """Try the next rate."""
        if self.error is not None:
            return
        rate = self.search.rate
        answer = tried(partial(read_once, place, replace(self.run, rate=rate)), self.failures)
        self.error = answer.get("error")
        if self.error is None:
            utilisation = answer["utilisation"]
            self.steps.append((rate, utilisation))
            self.search.record(utilisation >= UTILISATION)
            console.print(f"  {self.name}: {rate:,.0f} rows/s keep it {100 * utilisation:.1f} % busy", style="dim")
