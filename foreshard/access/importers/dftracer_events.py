"""Reads DFTracer's lines one by one: checks each, and keeps the few numbers of it that requests are made of."""

import json
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from foreshard.access.importers.collect import Spool
from foreshard.access.importers.horizon import DAY_S, FUTURE
from foreshard.access.importers.report import Quarantine

NO_JSON: Final = "no JSON object"
NO_PHASE: Final = "ph is no known phase"
NOT_UTF8: Final = "not UTF-8"
AGGREGATED: Final = "aggregated record: its single requests are not in the log"

SAMPLES, ITEMS, READS, OPENS = range(4)
"""Kinds of events that are kept: a sample read, an item that the loader asked for, a read and an opening of a file."""

_READS: Final = frozenset({"read", "pread", "pread64", "readv", "preadv", "preadv64", "fread"})
_OPENS: Final = frozenset({"open", "open64", "openat", "openat64", "fopen", "fopen64"})
_EPOCHS: Final = frozenset({"_train", "epoch", "epoch.block"})
_LARGEST: Final = 2**62
_MOST_EPOCHS: Final = 2**31 - 1
_DIGITS: Final = 18
_FLUSH: Final = 1 << 16

_COMPLETE: Final = ("X", 1)
_METADATA: Final = ("M", 4)
_OTHERS: Final = ("C", 2, "A", 3)


class Malformed(Exception):  # noqa: N818 -- it never leaves this module
    """A line is no event; the message is the reason."""


@dataclass
class Process:
    """What is known of one process.

    Attributes:
        name: its pid, for reports.
        seen: events of it that were read.
        announced: events that it says it wrote, None without its last word.
    """

    name: str
    seen: int = 0
    announced: int | None = None


class Events:
    """The events of a run's processes.

    Args:
        stack: closes the temporary files.
        quarantine: takes the malformed lines.

    Attributes:
        kept: columns of the events of `SAMPLES`, `ITEMS`, `READS` and `OPENS`: kind, thread, begin, end, file, nbytes,
            event (its number among all complete events).
        every: columns of all complete events, for recognising repeated ones: thread, id, begin, line. (Both sides of a
            fork log it under one id of one process.)
        spans: columns of events that span an epoch: process, epoch, begin, end.
        processes: by number.
        process_of_thread: process of every thread, by number.
        files: number of every file, by what the log calls it.
        names: path of every file, by what the log calls it, as far as the log tells.
        begun: (first event, name) of every log file.
    """

    def __init__(self, stack: ExitStack, quarantine: Quarantine) -> None:
        i1, i4, i8 = np.int8, np.int32, np.int64
        self._quarantine = quarantine
        self._limit = (int(time.time()) + DAY_S) * 10**6
        self._rows: dict[str, list[tuple[int, ...]]] = {"kept": [], "every": [], "spans": []}
        self.kept = [Spool(stack, dtype) for dtype in (i1, i4, i8, i8, i4, i8, i8)]
        self.every = [Spool(stack, dtype) for dtype in (i4, i8, i8, i8)]
        self.spans = [Spool(stack, dtype) for dtype in (i4, i4, i8, i8)]
        self.processes: list[Process] = []
        self.process_of_thread: list[int] = []
        self.files: dict[int | str, int] = {}
        self.names: dict[int | str, str] = {}
        self.begun: list[tuple[int, str]] = []
        self.events = 0
        self._numbers: dict[tuple[object, ...], int] = {}

    def begin(self, file: str) -> None:
        """Go on with another log file."""
        self.begun.append((self.events, file))

    def add(self, line: int, raw: bytes) -> None:
        """Take one line; one that is no event is reported."""
        text = raw.strip(b" \t\r\n")
        text = text.removeprefix(b"[").removesuffix(b"]").strip(b" ,\t")
        if not text:
            return
        try:
            self._event(line, _parse(text))
        except Malformed as error:
            self._quarantine.drop(str(error), self.begun[-1][1], f"line {line}", text)

    def close(self) -> None:
        """Store what is still in memory."""
        for name in self._rows:
            self._flush(name)

    # -- inside ---------------------------------------------------------------------------------------
    def _event(self, line: int, event: dict[str, Any]) -> None:
        name, phase = event.get("name"), event.get("ph")
        args = event.get("args", {})
        if type(name) is not str:
            raise Malformed("name is no text")
        if type(args) is not dict:
            raise Malformed("args are no object")
        if type(phase) not in (int, str):
            raise Malformed(NO_PHASE)
        if type(args.get("hhash")) not in (int, str, type(None)):
            raise Malformed("hhash is no number or text")
        if phase in _METADATA:
            self._metadata(name, event, args)
        elif phase in _COMPLETE:
            self._complete(line, name, event, args)
        elif phase in _OTHERS:
            if phase in ("A", 3):
                self._quarantine.note(AGGREGATED, self.begun[-1][1], f"line {line}", name)
        else:
            raise Malformed(NO_PHASE)

    def _metadata(self, name: str, event: dict[str, Any], args: dict[str, Any]) -> None:
        pid = _whole(event, "pid")
        if name == "FH":
            path, value = args.get("name"), args.get("value")
            if not isinstance(path, str) or not isinstance(value, int | str):
                raise Malformed("file hash without a name or a value")
            self.names[value] = path
        self.processes[self._process(args.get("hhash"), pid)].seen += 1

    def _complete(self, line: int, name: str, event: dict[str, Any], args: dict[str, Any]) -> None:
        begin, duration = _whole(event, "ts"), _whole(event, "dur")
        number = _whole(event, "id") if "id" in event else -1
        pid, tid = _whole(event, "pid"), _whole(event, "tid")
        if begin > self._limit:
            raise Malformed(FUTURE)
        row = self._kept(name, event.get("cat"), args)
        process = self._process(args.get("hhash"), pid)
        thread = self._number(("thread", process, tid))
        if row is not None:
            kind, file, nbytes = row
            self._append("kept", (kind, thread, begin, begin + duration, file, nbytes, self.events))
        elif name.rpartition(".")[2] in _EPOCHS or name in _EPOCHS:
            epoch = _number_in(args, "epoch")
            if epoch is not None and epoch > _MOST_EPOCHS:
                raise Malformed("epoch is beyond 2^31")
            if epoch is not None:
                self._append("spans", (process, epoch, begin, begin + duration))
        known = self.processes[process]
        known.seen += 1
        if name == "end" and event.get("cat") == "dftracer":
            known.announced = _number_in(args, "num_events")
        self._append("every", (thread, number, begin, line))
        self.events += 1

    def _kept(self, name: str, category: object, args: dict[str, Any]) -> tuple[int, int, int] | None:
        """Return kind, number of the file (or -1) and bytes (or 0) of an event to keep."""
        if category in ("POSIX", "STDIO"):
            return self._touched(name, args) if name in _READS or name in _OPENS else None
        if category == "reader" and name.endswith(".get_sample"):
            return SAMPLES, -1, _number_in(args, "image_size") or 0
        return (ITEMS, -1, 0) if name.endswith(".__getitem__") else None

    def _touched(self, name: str, args: dict[str, Any]) -> tuple[int, int, int] | None:
        if "fhash" not in args:
            return None  # a descriptor that is not traced, such as a pipe
        known, got, offset = args["fhash"], args.get("ret", 0), args.get("offset", 0)
        if type(known) not in (int, str) or type(got) is not int or type(offset) is not int:
            raise Malformed("fhash, ret or offset is of the wrong type")
        if got < 0:
            return None  # the call failed: nothing was read
        if name in _OPENS:
            return OPENS, self._file(known), 0
        return READS, self._file(known), min(got + max(offset, 0), _LARGEST)

    def _file(self, known: int | str) -> int:
        return self.files.setdefault(known, len(self.files))

    def _process(self, host: object, pid: int) -> int:
        key = ("process", host, pid)
        if key not in self._numbers:
            self._numbers[key] = len(self.processes)
            self.processes.append(Process(f"pid {pid}"))
        return self._numbers[key]

    def _number(self, thread: tuple[str, int, int]) -> int:
        if thread not in self._numbers:
            self._numbers[thread] = len(self.process_of_thread)
            self.process_of_thread.append(thread[1])
        return self._numbers[thread]

    def _append(self, name: str, row: tuple[int, ...]) -> None:
        rows = self._rows[name]
        rows.append(row)
        if len(rows) >= _FLUSH:
            self._flush(name)

    def _flush(self, name: str) -> None:
        spools: list[Spool] = getattr(self, name)
        rows = np.array(self._rows[name], np.int64).reshape(-1, len(spools))
        for spool, column in zip(spools, rows.T, strict=True):
            spool.append(column)
        self._rows[name].clear()


def _parse(text: bytes) -> dict[str, Any]:
    try:
        event = json.loads(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Malformed(NOT_UTF8) from error
    except (ValueError, RecursionError) as error:
        raise Malformed(NO_JSON) from error
    if type(event) is not dict:
        raise Malformed(NO_JSON)
    return event


def _whole(event: dict[str, Any], name: str) -> int:
    value = event.get(name)
    if type(value) is not int:
        raise Malformed(f"{name} is no integer")
    if value < 0:
        raise Malformed(f"{name} is negative")
    if value >= _LARGEST:
        raise Malformed(f"{name} is beyond 2^62")
    return value


def _number_in(args: dict[str, Any], name: str) -> int | None:
    """Return a number that may be written as text, as DLIO does, or None."""
    value = args.get(name)
    if type(value) is str and value.isascii() and value.isdigit() and len(value) <= _DIGITS:
        return int(value)
    return value if type(value) is int and 0 <= value < _LARGEST else None
