"""Finds the columns of a table that name object, time, epoch and size, and checks their values, batch by batch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.access.importers.collect import Collector
from foreshard.access.importers.options import ObjectType, Options
from foreshard.access.importers.report import Quarantine
from foreshard.access.importers.times import OUT_OF_ORDER, Clock
from foreshard.access.importers.values import Column, Parsed, integers, texts
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


def choose_columns(names: Sequence[str], options: Options, file: str) -> dict[Role, int]:
    """Return the position of every column that is wanted and there.

    A column that the caller names must exist. Otherwise the first of `GUESSES` that exists is taken; a table of one
    column holds objects whatever its name.

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
                raise LogError(f"log {file!r} has no column {wanted!r}; its columns are {', '.join(names)}")
            chosen[role] = list(names).index(wanted)
        else:
            place = next((lower.index(guess) for guess in GUESSES[role] if guess in lower), None)
            if place is not None and place not in chosen.values():
                chosen[role] = place
    if "object" not in chosen and len(names) == 1:
        chosen = {"object": 0}
    if "object" not in chosen:
        raise LogError(f"log {file!r} has the columns {', '.join(names)}: say by object_column which one names objects")
    return chosen


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
        object_type: integers, texts, or whichever most of the first rows are.
    """

    def __init__(self, collector: Collector, quarantine: Quarantine, object_type: ObjectType) -> None:
        self._collector = collector
        self._quarantine = quarantine
        self._type = object_type
        self._clock = Clock()

    def check(self, file: str, rows: Rows) -> None:
        """Check one batch.

        Raises:
            LogError: a column's type cannot be what is asked of it.
        """
        parsed = {role: self._parse(role, column) for role, column in rows.columns.items()}
        bad = np.zeros(len(rows.columns["object"]), bool)
        for one in parsed.values():
            for reason, mask in one.faults:
                for row in np.flatnonzero(mask & ~bad).tolist():
                    self._quarantine.drop(reason, file, rows.place(row), rows.value(row))
                bad |= mask
        for one in parsed.values():
            for reason, mask in one.odd:
                found = np.flatnonzero(mask & ~bad)
                if len(found):
                    row = int(found[0])
                    self._quarantine.note(reason, file, rows.place(row), rows.value(row), count=len(found))
        good = np.flatnonzero(~bad)
        late = self._collector.add(
            parsed["object"].values.take(pa.array(good)) if bad.any() else parsed["object"].values,
            _taken(parsed.get("time"), good),
            _taken(parsed.get("epoch"), good),
            _taken(parsed.get("size"), good),
        )
        if len(late):
            row = int(good[late[0]])
            self._quarantine.note(OUT_OF_ORDER, file, rows.place(row), rows.value(row), count=len(late))

    def _parse(self, role: Role, column: Column) -> Parsed:
        if role == "object":
            return self._objects(column)
        if role == "time":
            return self._clock.parse(column)
        parsed = integers(column, role)
        limit = np.iinfo(np.int32 if role == "epoch" else np.int64).max
        beyond = np.asarray(parsed.values.to_numpy(), np.uint64) > limit
        return Parsed(parsed.values, (*parsed.faults, (f"{role} above {limit}", beyond)))

    def _objects(self, column: Column) -> Parsed:
        if self._type == "auto":
            if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
                self._type = "int"
            elif pa.types.is_binary(column.type) and len(column):  # a CSV's values are not declared to be anything
                wrong = dict(integers(column, "object").faults)["object no integer"]
                self._type = "text" if 2 * int(wrong.sum()) > len(wrong) else "int"
            else:
                self._type = "text"
        return integers(column, "object") if self._type == "int" else texts(column, "object")


def _taken(parsed: Parsed | None, good: NDArray[np.int64]) -> Any:  # noqa: ANN401 -- the caller knows the type
    if parsed is None:
        return None
    return parsed.values.to_numpy(zero_copy_only=False)[good].astype(np.int64)
