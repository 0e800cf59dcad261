"""What a DataLoader's workers did, told to the process that started them by files, an epoch and worker each.

A file is written before the worker hands out its last batch of the epoch: when the training loop has them all, so has
the report. The folder goes with the object that made it.
"""

import logging
import os
import pickle
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from foreshard.loader.epochs import EpochReport
from foreshard.loader.scratch import scratch_folder
from foreshard.prefetch.monitor import CAUSES, Monitor, MonitorSnapshot, Totals

KEPT: Final = 100
"""Epochs whose files stay."""

_NAME: Final = re.compile(r"(\d+)\.(\d+)-of-(\d+)")
_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerReport:
    """What one worker did in an epoch.

    Attributes:
        report: as its loader tells it.
        memory: bytes that it has for chunks.
    """

    report: EpochReport
    memory: int


class WorkerReports:
    """A folder of reports. It may be pickled, and carried over a fork: workers write, its maker reads."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        try:
            self.folder = scratch_folder(self, "reports")
        except OSError as error:  # a report is not worth an error in the training
            _log.warning("what a DataLoader's workers do will not be reported: %s; set TMPDIR to a folder", error)

    def write(self, report: EpochReport, memory: int, worker: int, workers: int) -> None:
        """Tell of an epoch that a worker has done with; nothing, if whoever would read it is gone.

        If the file cannot be written, a warning says that the epoch will not be reported.

        Args:
            report: what it did.
            memory: bytes that it has for chunks.
            worker: which of the workers it is.
            workers: how many there are.
        """
        if self.folder is None:
            return
        path = self._file(report.epoch, worker, workers)
        staging = path.with_suffix(f".{os.getpid()}")
        try:
            staging.write_bytes(pickle.dumps(WorkerReport(report, memory)))
            staging.replace(path)
            self._file(report.epoch - KEPT, worker, workers).unlink(missing_ok=True)
        except FileNotFoundError:  # the folder went with who made it
            return
        except OSError as error:  # not worth an error in the training either
            _log.warning("epoch %d of a DataLoader's workers will not be reported: %s", report.epoch, error)

    def _file(self, epoch: int, worker: int, workers: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{epoch}.{worker}-of-{workers}.report"

    def epochs(self) -> list[EpochReport]:
        """Return the epochs of which all workers have told, by epoch, their counters and seconds added up."""
        return [_sum(parts) for parts in self._found().values()]

    def snapshot(self) -> MonitorSnapshot:
        """Return the same as a monitor's figures, for a report; nothing is known of the last batches."""
        found = list(self._found().values())
        stats = [_sum(parts).stats for parts in found]
        totals = Totals(
            sum(each.steps for each in stats),
            sum(each.ready_steps for each in stats),
            sum(each.samples for each in stats),
            sum(each.touches for each in stats),
            sum(each.hits for each in stats),
            sum(each.origin_bytes for each in stats),
            {cause: sum(each.waits[cause] for each in stats) for cause in CAUSES},
            len(stats),
        )
        budget = sum(part.memory for part in found[-1]) if found else 0
        return replace(Monitor(budget).snapshot(), epochs=tuple(stats), totals=totals)

    def _found(self) -> dict[int, list[WorkerReport]]:
        """Return the reports of epochs by epoch, if those of all workers are there; as many as read it last."""
        groups: dict[tuple[int, int], list[tuple[int, WorkerReport]]] = {}
        for path in [] if self.folder is None else sorted(self.folder.glob("*.report")):
            named = _NAME.match(path.name)
            if named:
                with suppress(FileNotFoundError):  # an old epoch's, which its worker has just removed
                    told = path.stat().st_mtime_ns, _read(path)
                    groups.setdefault((int(named[1]), int(named[3])), []).append(told)
        complete = {key: told for key, told in groups.items() if len(told) == key[1]}
        newest = sorted(complete, key=lambda key: (key[0], max(when for when, _ in complete[key])))
        return {key[0]: [part for _, part in complete[key]] for key in newest}


def _read(path: Path) -> WorkerReport:
    found: Any = pickle.loads(path.read_bytes())  # noqa: S301 - in a folder of our own
    return found


def _sum(parts: list[WorkerReport]) -> EpochReport:
    whole = parts[0].report
    for part in parts[1:]:
        whole = replace(whole, stats=whole.stats + part.report.stats)
    return whole
