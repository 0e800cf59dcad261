"""Splits blocks of delimited lines into columns: by Arrow where all is regular, line by line where it is not."""

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

from foreshard.access.importers.report import Quarantine
from foreshard.access.importers.values import Column, pc

WRONG_FIELDS: Final = "wrong number of fields"

_WORD: Final = re.compile(r"[^ \t\r]+")
"""Other white space than these may be bytes of a letter."""

_BLANKS: Final = " \t"

_BEHIND_QUOTE: Final = re.compile(r'"[ \t]+(?=[,;|\t]|$)')
"""Blanks that no quoted field may end with."""

_UNEVEN: Final = (b"\t", b"  ", b"\n ", b" \n")
"""White space that is more than one blank between two fields."""


@dataclass(frozen=True)
class Cells:
    """The fields of some lines.

    Attributes:
        columns: binary texts, one column for every place that was asked for.
        numbers: int64, number of every line in the file, from 1.
        line: returns a line as it stands in the file, by its position here.
    """

    columns: list[Column]
    numbers: NDArray[np.int64]
    line: Callable[[int], bytes]


@dataclass(frozen=True)
class Delimited:
    """Lines of `width` fields.

    Attributes:
        file: name of the file, for reports.
        delimiter: one character; a blank stands for any white space.
        width: fields of every line.
        places: the fields that are wanted.
        quarantine: takes the lines of another width.
    """

    file: str
    delimiter: str
    width: int
    places: Sequence[int]
    quarantine: Quarantine

    def parse(self, line: int, block: bytes) -> Cells | None:
        """Return a block's fields, or None if there are none; empty lines are passed over.

        Args:
            line: number of the block's first line.
            block: whole lines.
        """
        plain = block.replace(b"\r\n", b"\n") if b"\r" in block else block
        uneven = self.delimiter == " " and (plain.startswith(b" ") or any(white in plain for white in _UNEVEN))
        even = not uneven and b'"' not in plain and b"\r" not in plain
        if even and _regular(plain, ord(self.delimiter), self.width):
            return self._fast(line, plain)
        return self._slow(line, plain)

    def _fast(self, line: int, block: bytes) -> Cells:
        names = [str(number) for number in range(self.width)]
        wanted = [names[place] for place in self.places]
        table = pa_csv.read_csv(
            cast("IO[bytes]", pa.BufferReader(block)),
            read_options=pa_csv.ReadOptions(column_names=names, use_threads=False, block_size=len(block) + 1),
            parse_options=pa_csv.ParseOptions(
                delimiter=self.delimiter, quote_char=False, double_quote=False, ignore_empty_lines=False
            ),
            convert_options=pa_csv.ConvertOptions(
                check_utf8=False,
                column_types=dict.fromkeys(names, pa.binary()),
                include_columns=list(dict.fromkeys(wanted)),
                strings_can_be_null=False,
            ),
        )
        columns = [table.column(name).combine_chunks() for name in wanted]
        if self.delimiter != " " and _padded(block, self.delimiter):
            columns = [_stripped(column) for column in columns]
        lines: list[bytes] = []

        def line_of(row: int) -> bytes:
            if not lines:  # only a block with faults is ever split, and only once
                lines.extend(block.split(b"\n"))
            return lines[row]

        return Cells(columns, line + np.arange(table.num_rows), line_of)

    def _slow(self, line: int, block: bytes) -> Cells | None:
        numbers: list[int] = []
        lines: list[bytes] = []
        cells: list[list[bytes]] = []
        for number, raw in enumerate(block.split(b"\n"), line):
            if not raw.strip(b"\r"):
                continue
            # Latin-1 keeps every byte, so that bytes that are no UTF-8 reach the check of their own column.
            fields = split_line(raw.decode("latin-1"), self.delimiter)
            if fields is None or len(fields) != self.width:
                self.quarantine.drop(WRONG_FIELDS, self.file, f"line {number}", raw)
                continue
            numbers.append(number)
            lines.append(raw)
            cells.append([fields[place].encode("latin-1") for place in self.places])
        if not cells:
            return None
        columns = [pa.array([cell[i] for cell in cells], pa.binary()) for i in range(len(self.places))]
        return Cells(columns, np.array(numbers, np.int64), lambda row: lines[row])


def split_line(line: str, delimiter: str) -> list[str] | None:
    """Return a line's fields without the blanks around them, or None if its quotes do not match."""
    if delimiter == " ":
        return _WORD.findall(line)
    if len(line) > csv.field_size_limit():
        csv.field_size_limit(len(line))  # lines are of a bounded length already
    fields = _quoted(line, delimiter) or _quoted(_BEHIND_QUOTE.sub('"', line), delimiter)
    return None if fields is None else [field.strip(_BLANKS) for field in fields]


def _quoted(line: str, delimiter: str) -> list[str] | None:
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True, skipinitialspace=True), [])
    except csv.Error:
        return None


def _padded(block: bytes, delimiter: str) -> bool:
    """Return whether any field begins or ends with a blank."""
    data = np.frombuffer(block, np.uint8)
    for blank in _BLANKS:
        if blank == delimiter or blank.encode() not in block:
            continue
        at = np.flatnonzero(data == ord(blank))
        if at[0] == 0 or at[-1] == len(data) - 1:
            return True
        for beside in (data[at - 1], data[at + 1]):
            if ((beside == ord(delimiter)) | (beside == ord("\n"))).any():
                return True
    return False


def _stripped(column: Column) -> Column:
    return pc.ascii_trim(column.view(pa.string()), _BLANKS).view(pa.binary())  # looks at no byte above 127


def _regular(block: bytes, delimiter: int, width: int) -> bool:
    """Return whether every line has that many fields and none is empty."""
    data = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    if (np.diff(ends, prepend=-1) == 1).any():
        return False
    between = np.searchsorted(np.flatnonzero(data == delimiter), ends)
    return bool((np.diff(between, prepend=0) == width - 1).all())
