"""Imports LIS, the format of the ARC traces: a line is a request for a run of pages of 512 bytes.

A line holds the first page, the number of pages, a number without meaning, and the number of the request. Source:
Megiddo & Modha, ARC, FAST 2003 (their traces must be cited where they are used).
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.access.importers.collect import Collector, Spool
from foreshard.access.importers.delimited import Cells, Delimited
from foreshard.access.importers.files import LogFile, line_blocks, open_log
from foreshard.access.importers.options import Options
from foreshard.access.importers.report import Quarantine
from foreshard.access.importers.values import integers
from foreshard.errors import ConfigError

PAGE_BYTES: Final = 512
MOST_PAGES: Final = 1 << 20
"""Pages of one request, 512 MiB; more is a damaged line."""

DUPLICATE: Final = "repeats an earlier record"
NO_PAGES: Final = f"number of pages outside 1..{MOST_PAGES}"
BEYOND: Final = "page beyond 2^62"
LATE: Final = "request number not above the one in front of it"
NO_IDENTITY: Final = "request numbers do not tell records apart: repeated records cannot be recognised"

_COLUMNS: Final = ("first page", "number of pages", "third field", "request number")
_RECORDS: Final = 1 << 18
_BATCH: Final = 1 << 22


def import_lis(
    files: Sequence[LogFile], options: Options, collector: Collector, quarantine: Quarantine
) -> dict[str, str]:
    """Read LIS files, in order; every page of a request counts as a request, or every run of `extent` pages does.

    Raises:
        ConfigError: an extent below 1.
        LogError: a file cannot be read.
    """
    if options.extent < 1:
        raise ConfigError(f"an extent of {options.extent} pages cannot be; give at least 1")
    for log in files:
        with ExitStack() as stack:
            records = _Records(stack, log.name, quarantine)
            lines = Delimited(log.name, " ", len(_COLUMNS), range(len(_COLUMNS)), quarantine)
            for line, block in line_blocks(open_log(log, stack, quarantine), quarantine, log.name):
                cells = lines.parse(line, block)
                if cells is not None:
                    records.add(cells)
            for start, count in records.distinct():
                _expand(start, count, options.extent, collector)
    return {}


class _Records:
    """The valid records of one file, which may only be counted once all of them are known."""

    def __init__(self, stack: ExitStack, file: str, quarantine: Quarantine) -> None:
        self._file = file
        self._quarantine = quarantine
        self._columns = [Spool(stack, np.int64) for _ in range(4)]
        self._last = -1
        self._late = 0

    def add(self, cells: Cells) -> None:
        """Check lines and keep the valid ones."""
        parsed = [integers(column, name) for column, name in zip(cells.columns, _COLUMNS, strict=True)]
        values = [np.asarray(one.values.to_numpy(), np.uint64) for one in parsed]
        faults = [
            *(fault for one in parsed for fault in one.faults),
            (NO_PAGES, (values[1] < 1) | (values[1] > MOST_PAGES)),
            (BEYOND, values[0] > 2**62),
            (BEYOND, values[3] > 2**62),
        ]
        bad = np.zeros(len(values[0]), bool)
        for reason, mask in faults:
            for row in np.flatnonzero(mask & ~bad).tolist():
                self._quarantine.drop(reason, self._file, f"line {cells.numbers[row]}", cells.line(row))
            bad |= mask
        good = np.flatnonzero(~bad)
        if not len(good):
            return
        start, count, number = (values[i][good].astype(np.int64) for i in (0, 1, 3))
        late = np.flatnonzero(np.diff(number, prepend=self._last) <= 0)
        if len(late):
            self._late += len(late)
            row = int(good[late[0]])
            where = f"line {cells.numbers[row]}"
            self._quarantine.note(LATE, self._file, where, cells.line(row), count=len(late))
        self._last = int(number[-1])
        for spool, column in zip(self._columns, (start, count, number, cells.numbers[good]), strict=True):
            spool.append(column)

    def distinct(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield (first pages, numbers of pages) of the records in order, without those that repeat another one."""
        keep = self._first_ones() if self._late else None  # numbers that only ascend repeat nothing
        at = 0
        for start, count in zip(*(column.parts(_RECORDS) for column in self._columns[:2]), strict=True):
            mine = slice(None) if keep is None else keep[at : at + len(start)]
            yield start[mine], count[mine]
            at += len(start)

    def _first_ones(self) -> NDArray[np.bool_]:
        start, count, number = (column.read() for column in self._columns[:3])
        order = np.lexsort((number, start, count))
        same = np.ones(len(order) - 1, bool)
        for column in (number, start, count):
            same &= np.diff(column[order]) == 0
        keep = np.ones(len(order), bool)
        if 2 * len(np.unique(number)) < len(number):
            self._quarantine.note(NO_IDENTITY, self._file, "whole file", count=len(number))
            return keep
        keep[order[1:][same]] = False
        line = self._columns[3].read()
        for row in np.flatnonzero(~keep).tolist():
            value = f"{start[row]} {count[row]} ... {number[row]}"
            self._quarantine.drop(DUPLICATE, self._file, f"line {line[row]}", value)
        return keep


def _expand(start: NDArray[np.int64], count: NDArray[np.int64], extent: int, collector: Collector) -> None:
    """Add every page, or extent, of every record, a bounded number at once."""
    first, last = start // extent, (start + count - 1) // extent
    lengths = last - first + 1
    cuts = np.flatnonzero(np.diff(np.cumsum(lengths) // _BATCH, prepend=0))
    for begin, end in zip([0, *cuts.tolist()], [*cuts.tolist(), len(first)], strict=True):
        size = lengths[begin:end]
        total = int(size.sum())
        within = np.arange(total) - np.repeat(np.cumsum(size) - size, size)
        pages = np.repeat(first[begin:end], size) + within
        collector.add(pa.array(pages), sizes=np.full(total, PAGE_BYTES * extent, np.int64))
