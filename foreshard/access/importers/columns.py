"""Finds the columns of a table that name object, time, epoch and size, and checks their values, batch by batch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.access.importers.collect import Collector
from foreshard.access.importers.options import ObjectType, Options
from foreshard.access.importers.report import Example, Quarantine, quote
from foreshard.access.importers.times import OUT_OF_ORDER, Clock
from foreshard.access.importers.values import Column, Parsed, integers, plain, texts
from foreshard.errors import LogError

Role = Literal["object", "time", "epoch", "size"]

GUESSES: Final[Mapping[Role, tuple[str, ...]]] = {
    "object": (
        "object_id", "object", "obj_id", "obj", "chunk_id", "chunk", "sample_id", "sample", "item_id", "item", "key",
        "id", "file", "filename", "path", "name", "page", "block", "lbn", "address",
    ),
    "time": ("timestamp", "time", "ts", "datetime", "date", "t"),
    "epoch": ("epoch",),
    "size": ("size", "bytes", "nbytes", "obj_size", "object_size", "size_bytes", "length"),
}  # fmt: skip
"""Names that a column is looked for under, in this order, whatever their case."""


def choose_columns(names: Sequence[str], options: Options, file: str, hint: str = "") -> dict[Role, int]:
    """Return the position of every column that is wanted and there.

    A column that the caller names must exist. Otherwise the first of `GUESSES` that exists is taken; a table of one
    column holds objects whatever its name.

    Args:
        names: the columns' names.
        options: names that the caller gives.
        file: name of the file, for errors.
        hint: what errors say of the names besides.

    Raises:
        LogError: a named column is missing, or no column looks like objects.
    """
    asked: dict[Role, str | None] = {
        "object": options.object_column,
        "time": options.time_column,
        "epoch": options.epoch_column,
        "size": options.size_column,
    }
    lower = [name.strip().lower() for name in names]
    chosen: dict[Role, int] = {}
    for role, wanted in asked.items():
        if wanted is not None:
            if wanted not in names:
                raise LogError(f"log {file!r} has no column {wanted!r}; its columns are {', '.join(names)}{hint}")
            chosen[role] = list(names).index(wanted)
        else:
            place = next((lower.index(guess) for guess in GUESSES[role] if guess in lower), None)
            if place is not None and place not in chosen.values():
                chosen[role] = place
    if "object" not in chosen and len(names) == 1:
        chosen = {"object": 0}
    if "object" not in chosen:
        raise LogError(
            f"log {file!r} has the columns {', '.join(names)}: say by object_column which one names objects{hint}"
        )
    return chosen


UNKNOWN: Final = ", taken as unknown"
"""What is said of a size that cannot be used."""


class MixedObjects(Exception):  # noqa: N818 -- not an error: the log is read again
    """Some objects are integers, others are not: all of them must be read as the texts that they are.

    Attributes:
        example: a record whose object is no integer.
    """

    def __init__(self, example: Example) -> None:
        super().__init__(f"{example.file}, {example.where}: {example.value}")
        self.example = example


@dataclass(frozen=True)
class Rows:
    """Some rows of a table.

    Attributes:
        columns: the column of every role, of one length.
        place: returns in words where a row is, by its position here.
        value: returns the row as it stands in the log, by its position here.
    """

    columns: Mapping[Role, Column]
    place: Callable[[int], str]
    value: Callable[[int], object]


class RowChecker:
    """Parses rows, hands the valid ones to the collector, and reports the others by their first fault.

    Args:
        collector: takes the requests.
        quarantine: takes the faults.
        object_type: integers, texts, or integers as long as all of them are some.
    """

    def __init__(self, collector: Collector, quarantine: Quarantine, object_type: ObjectType) -> None:
        self._collector = collector
        self._quarantine = quarantine
        self._type = object_type
        self._begun = False
        self._clock = Clock()

    def check(self, file: str, rows: Rows) -> None:
        """Check one batch.

        Raises:
            LogError: a column's type cannot be what is asked of it.
            MixedObjects: objects that were read as integers are not.
        """
        objects = self._objects(rows.columns["object"])
        others = {role: self._parse(role, column) for role, column in rows.columns.items() if role != "object"}
        if self._type == "auto":
            self._need_integers(objects, list(others.values()), file, rows)
        parsed = {"object": objects, **others}
        bad = self._drop(list(parsed.values()), file, rows)
        for one in parsed.values():
            for reason, mask in one.odd:
                found = np.flatnonzero(mask & ~bad)
                if len(found):
                    row = int(found[0])
                    self._quarantine.note(reason, file, rows.place(row), rows.value(row), count=len(found))
        good = np.flatnonzero(~bad)
        late = self._collector.add(
            objects.values.take(pa.array(good)) if bad.any() else objects.values,
            _taken(parsed.get("time"), good),
            _taken(parsed.get("epoch"), good),
            _taken(parsed.get("size"), good),
        )
        if len(late):
            row = int(good[late[0]])
            self._quarantine.note(OUT_OF_ORDER, file, rows.place(row), rows.value(row), count=len(late))

    def _drop(self, parsed: Sequence[Parsed], file: str, rows: Rows) -> NDArray[np.bool_]:
        """Report the rows that are left out by their first fault, and return which they are."""
        bad = np.zeros(len(rows.columns["object"]), bool)
        for one in parsed:
            for reason, mask in one.faults:
                for row in np.flatnonzero(mask & ~bad).tolist():
                    self._quarantine.drop(reason, file, rows.place(row), rows.value(row))
                bad |= mask
        return bad

    def _parse(self, role: Role, column: Column) -> Parsed:
        if role == "time":
            return self._clock.parse(column)
        parsed = integers(column, role)
        limit = np.iinfo(np.int32 if role == "epoch" else np.int64).max
        values = np.asarray(parsed.values.to_numpy(), np.uint64)
        beyond = values > limit
        faults = (*parsed.faults, (f"{role} above {limit}", beyond))
        if role == "epoch":
            return Parsed(parsed.values, faults)
        # Nothing hangs on a size: the request is one without it.
        known = pa.array(np.where(beyond, np.uint64(0), values))
        return Parsed(known, (), tuple((reason + UNKNOWN, mask) for reason, mask in faults))

    def _objects(self, column: Column) -> Parsed:
        """Parse objects as integers or texts; the first values that are there decide, if the caller does not."""
        if self._type == "text":
            return texts(column, "object")
        if self._type == "auto" and not self._begun:
            kind = plain(column).type
            if pa.types.is_string(kind) or pa.types.is_fixed_size_binary(kind):
                self._type = "text"  # as the file declares; a CSV's values are not declared to be anything
                return texts(column, "object")
        parsed = integers(column, "object")
        if self._type == "auto" and not self._begun:
            faults = dict(parsed.faults)
            there = ~faults["object missing"]
            self._begun = bool(there.any())
            if self._begun and (faults["object no integer"] | ~there).all():
                self._type = "text"
                return texts(column, "object")
        return parsed

    def _need_integers(self, objects: Parsed, others: Sequence[Parsed], file: str, rows: Rows) -> None:
        """Check that no object that is a text of a row without another fault was taken for a damaged integer.

        Raises:
            MixedObjects: there is one.
        """
        column = plain(rows.columns["object"])
        wrong = dict(objects.faults)["object no integer"]
        if not wrong.any() or pa.types.is_floating(column.type):
            return
        lost = wrong.copy()
        for one in others:
            for _, mask in one.faults:
                lost &= ~mask
        places = np.flatnonzero(lost)
        unreadable = np.zeros(len(places), bool)
        for _, mask in texts(column.take(pa.array(places)), "object").faults:
            unreadable |= mask
        for row in places[~unreadable][:1].tolist():
            raise MixedObjects(Example(file, rows.place(row), quote(rows.value(row))))


def _taken(parsed: Parsed | None, good: NDArray[np.int64]) -> Any:  # noqa: ANN401 -- the caller knows the type
    if parsed is None:
        return None
    return parsed.values.to_numpy(zero_copy_only=False)[good].astype(np.int64)
