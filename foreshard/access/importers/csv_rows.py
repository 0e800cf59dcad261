"""Imports delimited text: a line a request, its fields told apart by the header's names or by the caller.

A record is one line: fields may be quoted, but not hold a newline. Lines are read in blocks; a block without quotes
goes through Arrow's parser, a block with them, or with lines of a wrong number of fields, is sorted out line by line.
"""

import csv
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from foreshard.access.importers.collect import Collector
from foreshard.access.importers.columns import GUESSES, Role, RowChecker, Rows, choose_columns
from foreshard.access.importers.files import line_blocks, open_log
from foreshard.access.importers.options import Options
from foreshard.access.importers.report import Quarantine
from foreshard.access.importers.values import Column
from foreshard.errors import LogError

DELIMITERS: Final = ",\t;| "
WRONG_FIELDS: Final = "wrong number of fields"

_BOM: Final = b"\xef\xbb\xbf"


def import_csv(files: Sequence[Path], options: Options, collector: Collector, quarantine: Quarantine) -> None:
    """Read delimited text files, in order.

    Raises:
        LogError: a file cannot be read, is empty, or has no column of objects.
    """
    checker = RowChecker(collector, quarantine, options.object_type)
    for path in files:
        with ExitStack() as stack:
            table: _Table | None = None
            for first, read in line_blocks(open_log(path, stack), quarantine, path.name):
                line, block = first, read.removeprefix(_BOM) if first == 1 else read
                if table is None:
                    line, block = _skip_empty(line, block)
                    if not block:
                        continue
                    table = _Table(path.name, block.partition(b"\n")[0], options, quarantine)
                    if table.has_header:
                        line, block = line + 1, block.partition(b"\n")[2]
                if rows := table.parse(line, block):
                    checker.check(path.name, rows)


def _skip_empty(line: int, block: bytes) -> tuple[int, bytes]:
    start = len(block) - len(block.lstrip(b"\r\n"))
    return line + block[:start].count(b"\n"), block[start:]


class _Table:
    """What a file's first line says of the lines behind it."""

    def __init__(self, file: str, first: bytes, options: Options, quarantine: Quarantine) -> None:
        self._file = file
        self._quarantine = quarantine
        try:
            text = first.rstrip(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise LogError(f"log {file!r} is no text in UTF-8 ({error}); give a CSV file") from error
        self._delimiter = max(DELIMITERS, key=text.count) if any(d in text for d in DELIMITERS) else ","
        fields = _split(text, self._delimiter)
        if fields is None:
            raise LogError(f"log {file!r} has a first line whose quotes do not match; correct it")
        self._width = len(fields)
        guesses = {name for names in GUESSES.values() for name in names}
        asked = {options.object_column, options.time_column, options.epoch_column, options.size_column}
        lower = {field.strip().lower() for field in fields}
        self.has_header = bool(lower & guesses or asked & set(fields) or not any(_numeric(field) for field in fields))
        names = fields if self.has_header else [str(number) for number in range(len(fields))]
        self._columns = choose_columns(names, options, file)

    def parse(self, line: int, block: bytes) -> Rows | None:
        """Return a block's rows; lines with a wrong number of fields are reported, empty ones passed over."""
        plain = block.replace(b"\r\n", b"\n") if b"\r" in block else block
        simple = b'"' not in plain and b"\r" not in plain
        if simple and (self._width == 1 or self._delimiter != " "):
            number = _regular(plain, ord(self._delimiter), self._width)
            if number is not None:
                return self._fast(line, plain)
        return self._slow(line, plain)

    def _fast(self, line: int, block: bytes) -> Rows | None:
        names = [str(number) for number in range(self._width)]
        wanted = {role: names[place] for role, place in self._columns.items()}
        table = pa_csv.read_csv(
            cast("IO[bytes]", pa.BufferReader(block)),
            read_options=pa_csv.ReadOptions(column_names=names, use_threads=False, block_size=len(block) + 1),
            parse_options=pa_csv.ParseOptions(
                delimiter=self._delimiter, quote_char=False, double_quote=False, ignore_empty_lines=False
            ),
            convert_options=pa_csv.ConvertOptions(
                check_utf8=False,
                column_types=dict.fromkeys(names, pa.binary()),
                include_columns=list(dict.fromkeys(wanted.values())),
                strings_can_be_null=False,
            ),
        )
        columns: dict[Role, Column] = {role: table.column(name).combine_chunks() for role, name in wanted.items()}
        return Rows(columns, lambda row: f"line {line + row}", lambda row: block.split(b"\n")[row])

    def _slow(self, line: int, block: bytes) -> Rows | None:
        numbers: list[int] = []
        lines: list[bytes] = []
        cells: list[list[bytes]] = []
        for number, raw in enumerate(block.split(b"\n"), line):
            if not raw.strip(b"\r"):
                continue
            # Latin-1 keeps every byte, so that bytes that are no UTF-8 reach the check of their own column.
            fields = _split(raw.decode("latin-1"), self._delimiter)
            if fields is None or len(fields) != self._width:
                self._quarantine.drop(WRONG_FIELDS, self._file, f"line {number}", raw)
                continue
            numbers.append(number)
            lines.append(raw)
            cells.append([fields[place].encode("latin-1") for place in self._columns.values()])
        if not cells:
            return None
        columns: dict[Role, Column] = {
            role: pa.array([cell[i] for cell in cells], pa.binary()) for i, role in enumerate(self._columns)
        }
        return Rows(columns, lambda row: f"line {numbers[row]}", lambda row: lines[row])


def _regular(block: bytes, delimiter: int, width: int) -> int | None:
    """Return the number of lines if each has that many fields and none is empty, else None."""
    data = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    if (np.diff(ends, prepend=-1) == 1).any():
        return None
    between = np.searchsorted(np.flatnonzero(data == delimiter), ends)
    return len(ends) if (np.diff(between, prepend=0) == width - 1).all() else None


def _split(line: str, delimiter: str) -> list[str] | None:
    """Return a line's fields, or None if its quotes do not match."""
    if delimiter == " ":
        return line.split()
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return None


def _numeric(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
