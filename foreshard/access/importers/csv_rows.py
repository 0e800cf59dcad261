"""Imports delimited text: a line a request, its fields told apart by the header's names or by the caller.

A record is one line: fields may be quoted, but not hold a newline.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from foreshard.access.importers.collect import Collector
from foreshard.access.importers.columns import GUESSES, Role, choose_columns
from foreshard.access.importers.delimited import Delimited, split_line
from foreshard.access.importers.files import LogFile, line_blocks, open_log
from foreshard.access.importers.options import Options
from foreshard.access.importers.report import Quarantine
from foreshard.access.importers.row_checks import RowChecker, Rows
from foreshard.errors import LogError

DELIMITERS: Final = ",\t;|"
"""Whichever of these is most in the first line; a blank if there is none, as names of columns may hold blanks."""

HEADER_AGAIN: Final = "repeats the header"

_BOM: Final = b"\xef\xbb\xbf"


def import_csv(
    files: Sequence[LogFile], options: Options, collector: Collector, quarantine: Quarantine
) -> dict[str, str]:
    """Read delimited text files, in order.

    Returns:
        The names of the columns used, by role; numbers from 0 where there is no header.

    Raises:
        LogError: a file cannot be read, or has no column of objects.
    """
    checker = RowChecker(collector, quarantine, options.object_type)
    for log in files:
        with ExitStack() as stack:
            table: _Table | None = None
            for first, read in line_blocks(open_log(log, stack, quarantine), quarantine, log.name):
                line, block = first, read.removeprefix(_BOM) if first == 1 else read
                if table is None:
                    line, block = _skip_empty(line, block)
                    if not block:
                        continue
                    table = _Table(log.name, block.partition(b"\n")[0], options, quarantine)
                    if table.has_header:
                        line, block = line + 1, block.partition(b"\n")[2]
                rows = table.rows(line, block) if block else None
                if rows is not None:
                    checker.check(log.name, rows)
    return checker.used


def _skip_empty(line: int, block: bytes) -> tuple[int, bytes]:
    start = len(block) - len(block.lstrip(b"\r\n"))
    return line + block[:start].count(b"\n"), block[start:]


class _Table:
    """What a file's first line says of the lines behind it."""

    def __init__(self, file: str, first: bytes, options: Options, quarantine: Quarantine) -> None:
        try:
            text = first.rstrip(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise LogError(f"log {file!r} is no text in UTF-8 ({error}); give a CSV file") from error
        delimiter = max(DELIMITERS, key=text.count)
        if delimiter not in text and " " in text:
            delimiter = " "
        fields = split_line(text, delimiter)
        if fields is None:
            raise LogError(f"log {file!r} has a first line whose quotes do not match; correct it")
        known = _known(fields, options)
        self.has_header = _is_header(fields, known=known) if options.header is None else options.header
        self._file, self._quarantine, self._first = file, quarantine, first
        names = fields if self.has_header else [str(number) for number in range(len(fields))]
        guessed = self.has_header and not known and options.header is None
        hint = "; they are its first line: if that is data, say so by header=False (--no-header)" if guessed else ""
        self._columns: dict[Role, int] = choose_columns(names, options, file, hint)
        self._names: dict[Role, str] = {role: names[place] for role, place in self._columns.items()}
        self._lines = Delimited(file, delimiter, len(fields), list(self._columns.values()), quarantine)

    def rows(self, line: int, block: bytes) -> Rows | None:
        """Return a block's rows, or None if it has none."""
        if self.has_header and self._first in block:  # nearly never, unless files were put one behind another
            block = self._without_header(line, block)
        cells = self._lines.parse(line, block)
        if cells is None:
            return None
        columns = dict(zip(self._columns, cells.columns, strict=True))
        return Rows(columns, self._names, lambda row: f"line {cells.numbers[row]}", cells.line)

    def _without_header(self, line: int, block: bytes) -> bytes:
        """Empty the lines that repeat the header."""
        lines = block.split(b"\n")
        for place in [place for place, raw in enumerate(lines) if raw == self._first]:
            self._quarantine.drop(HEADER_AGAIN, self._file, f"line {line + place}", self._first)
            lines[place] = b""
        return b"\n".join(lines)


def _known(fields: Sequence[str], options: Options) -> bool:
    """Return whether the first line holds the name of a column that is looked for or asked for."""
    guessed = {name for names in GUESSES.values() for name in names}
    asked = {options.object_column, options.time_column, options.epoch_column, options.size_column}
    named = {field for field in fields if not _numeric(field)}  # a number that is asked for is a position
    return bool({field.lower() for field in fields} & guessed or asked & named)


def _is_header(fields: Sequence[str], *, known: bool) -> bool:
    """Return whether the first line names the columns: by a name that is known, or by having no number.

    In a list of objects nothing but a known name tells the header from the first object.
    """
    return known or (len(fields) > 1 and not any(_numeric(field) for field in fields))


def _numeric(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
