"""Makes requests of DFTracer's events: which file a sample was read from, in which epoch, and what stands twice.

Samples do not name their file, nor the epoch. Both follow from time: the file is the one that the sample's thread
touched last before the sample was complete; the epoch is the one that its process was in.
"""

from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.access.importers.collect import Collector
from foreshard.access.importers.dftracer_events import ITEMS, OPENS, READS, SAMPLES, Events
from foreshard.access.importers.report import Quarantine
from foreshard.errors import LogError

REPEATED: Final = "repeats an event of its thread"
NO_FILE: Final = "sample before its thread touched any file"
BETWEEN: Final = "request outside every epoch, counted to the one before it"
SKEWED: Final = "clock of a process differs from the others'"
ABSENT: Final = "process without a part of the epochs"
UNFINISHED: Final = "process without an end record: it vanished, or its log was cut short"
MISSING: Final = "process with fewer events than it says it wrote"

SKEW_US: Final = 10**6
"""Epochs begin at a barrier, so processes that begin them further apart have different clocks."""

_BATCH: Final = 1 << 18
_MIX: Final = np.array([-7046029254386353131, -4417276706812531889], np.int64)

_Ints = NDArray[np.int64]


def requests_of(events: Events, requests: str, collector: Collector, quarantine: Quarantine) -> None:
    """Hand the requests to the collector, all at once.

    Args:
        events: of all processes.
        requests: `samples`, `reads` or `auto`.
        collector: takes the requests, by epoch and time.
        quarantine: takes what is odd.

    Raises:
        LogError: samples are asked for and there are none.
    """
    repeated = _repeated(events, quarantine)
    columns = [spool.read() for spool in events.kept]
    if repeated is not None:
        once = ~repeated[columns[-1]]
        columns = [column[once] for column in columns]
    kind, thread, begin, end, file, nbytes, number = columns
    wanted = next((k for k in (SAMPLES, ITEMS) if (kind == k).any()), READS) if requests != "reads" else READS
    if requests == "samples" and wanted == READS:
        raise LogError("the log holds no sample (events get_sample or __getitem__); import its reads instead")
    rows = np.flatnonzero(kind == wanted)
    touches = np.flatnonzero((kind == READS) | (kind == OPENS))
    largest = np.zeros(len(events.files), np.int64)
    np.maximum.at(largest, file[touches], nbytes[touches])
    if wanted != READS:
        at = last_before(thread[touches], begin[touches], thread[rows], end[rows])
        for row in rows[at < 0].tolist():
            quarantine.drop(NO_FILE, _file_of(events, int(number[row])), f"ts {begin[row]}")
        rows, at = rows[at >= 0], at[at >= 0]
        read = file[touches][at]
    else:
        read = file[rows]
    sizes = np.where(nbytes[rows] > 0, nbytes[rows], largest[read]) if wanted == SAMPLES else largest[read]
    process = np.array(events.process_of_thread, np.int64)[thread[rows]] if len(rows) else np.empty(0, np.int64)
    epochs = _epochs(events, process, begin[rows], quarantine)
    order = np.lexsort((begin[rows], epochs)) if epochs is not None else np.argsort(begin[rows], kind="stable")
    called = (events.names.get(known, f"hash {known}") for known in events.files)
    # JSON may hold halves of characters, which no text may.
    names: Any = pa.array([name.encode("utf-8", "backslashreplace") for name in called], pa.binary()).cast(pa.string())
    for start in range(0, len(order), _BATCH):
        part = order[start : start + _BATCH]
        collector.add(
            names.take(pa.array(read[part])),
            begin[rows[part]] if epochs is None else None,
            None if epochs is None else epochs[part].astype(np.int32),
            sizes[part],
        )
    _check_processes(events, quarantine)


def last_before(groups: _Ints, times: _Ints, asking: _Ints, moments: _Ints) -> _Ints:
    """Return, for every moment, the position of the last time of its group that is not after it, or -1.

    Args:
        groups: shape (a,), the group of every time.
        times: shape (a,).
        asking: shape (b,), the group of every moment.
        moments: shape (b,).
    """
    known = len(times)
    group, when = np.concatenate([groups, asking]), np.concatenate([times, moments])
    order = np.lexsort((np.arange(len(when)) >= known, when, group))
    place = np.arange(len(order))
    last = np.maximum.accumulate(np.where(order < known, place, -1))
    found = np.full(len(order), -1, np.int64)
    found[order] = np.where(last >= 0, order[last], -1)
    mine = found[known:]
    return np.where((mine >= 0) & (groups[mine] == asking), mine, -1) if known else mine


def _epochs(events: Events, process: _Ints, begin: _Ints, quarantine: Quarantine) -> _Ints | None:
    """Return every request's epoch: its own process's, else the run's at that time; None if the log knows none."""
    spanning, epoch, start, stop = (spool.read() for spool in events.spans)
    if not len(epoch):
        return None
    _check_spans(events, (spanning, epoch, start, stop), quarantine)
    own = last_before(spanning, start, process, begin)
    inside = (own >= 0) & (begin <= stop[own])
    seen, which = np.unique(epoch, return_inverse=True)
    first, last = np.full(len(seen), np.iinfo(np.int64).max), np.zeros(len(seen), np.int64)
    np.minimum.at(first, which, start)
    np.maximum.at(last, which, stop)
    by_time = np.argsort(first, kind="stable")
    at = by_time[np.maximum(np.searchsorted(first[by_time], begin, "right") - 1, 0)]
    between = ~inside & ((begin < first[at]) | (begin > last[at]))
    if between.any():
        row = int(np.flatnonzero(between)[0])
        quarantine.note(BETWEEN, "the log", f"ts {begin[row]}", f"epoch {seen[at[row]]}", count=int(between.sum()))
    return np.where(inside, epoch[own], seen[at])


def _check_spans(events: Events, spans: tuple[_Ints, _Ints, _Ints, _Ints], quarantine: Quarantine) -> None:
    """Report clocks that differ, and processes that lack epochs which others have."""
    process, epoch, start, _ = spans
    seen, which = np.unique(epoch, return_inverse=True)
    middle = np.array([np.median(start[which == e]) for e in range(len(seen))])
    for one in np.unique(process).tolist():
        mine = process == one
        apart = float(np.median(start[mine] - middle[which[mine]]))
        name = events.processes[one].name
        if abs(apart) > SKEW_US:
            quarantine.note(SKEWED, "the log", name, f"{apart / 1e6:+.3f} s")
        missing = np.setdiff1d(seen, epoch[mine])
        if len(missing):
            quarantine.note(ABSENT, "the log", name, f"epochs {', '.join(map(str, missing[:5].tolist()))}")


def _check_processes(events: Events, quarantine: Quarantine) -> None:
    for process in events.processes:
        if process.announced is None:
            quarantine.note(UNFINISHED, "the log", process.name, f"{process.seen} events")
        elif process.seen < process.announced:
            value = f"{process.seen} of {process.announced} events"
            quarantine.note(MISSING, "the log", process.name, value)


def _repeated(events: Events, quarantine: Quarantine) -> NDArray[np.bool_] | None:
    """Return which complete events repeat an earlier one of the same thread, id and time; None if none does."""
    # Equal events have equal mixtures of their three columns: sorting those is enough where nothing is repeated.
    mixed = np.empty(events.events, np.int64)
    at = 0
    for parts in zip(*(column.parts(_BATCH) for column in events.every[:3]), strict=True):
        thread, number, begin = (part.astype(np.int64) for part in parts)
        mixed[at : at + len(begin)] = thread * _MIX[0] ^ number * _MIX[1] ^ begin
        at += len(begin)
    mixed.sort()
    if not any((np.diff(mixed[at : at + _BATCH + 1]) == 0).any() for at in range(0, len(mixed), _BATCH)):
        return None
    thread, number, begin = (column.read() for column in events.every[:3])
    order = np.lexsort((number, thread, begin))
    same = number[order[1:]] >= 0
    for column in (thread, number, begin):
        same &= np.diff(column[order]) == 0
    repeated = np.zeros(len(order), bool)
    repeated[order[1:][same]] = True
    lines = events.every[3].read()
    for event in np.flatnonzero(repeated).tolist():
        name = events.processes[events.process_of_thread[thread[event]]].name
        file = _file_of(events, event)
        quarantine.drop(REPEATED, file, f"line {lines[event]}", f"{name}, id {number[event]}")
    return repeated


def _file_of(events: Events, event: int) -> str:
    """Return the log file that an event stands in."""
    return events.begun[int(np.searchsorted([first for first, _ in events.begun], event, "right")) - 1][1]
