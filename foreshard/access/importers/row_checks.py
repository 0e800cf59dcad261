"""Checks the rows of a table, batch by batch: what is valid goes to the collector, what is not is reported."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.access.importers.collect import Collector
from foreshard.access.importers.columns import Role
from foreshard.access.importers.horizon import SINCE_2000_S, UNITS
from foreshard.access.importers.options import ObjectType
from foreshard.access.importers.report import Example, Quarantine, quote
from foreshard.access.importers.times import OUT_OF_ORDER, Clock
from foreshard.access.importers.values import Column, Parsed, integers, plain, texts
from foreshard.errors import LogError

UNKNOWN: Final = ", taken as unknown"
"""What is said of a size that cannot be used."""


_MOST_EPOCHS: Final = 10**6


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
        names: what the log calls them.
        place: returns in words where a row is, by its position here.
        value: returns the row as it stands in the log, by its position here.
    """

    columns: Mapping[Role, Column]
    names: Mapping[Role, str]
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
        self._names: dict[Role, dict[str, None]] = {}
        self._epochs_known = False
        self._clock = Clock()

    @property
    def used(self) -> dict[str, str]:
        """The names of the columns that were used, by role; several, where files call one differently."""
        return {role: ", ".join(names) for role, names in self._names.items()}

    def check(self, file: str, rows: Rows) -> None:
        """Check one batch.

        Raises:
            LogError: a column cannot be what is asked of it.
            MixedObjects: objects that were read as integers are not.
        """
        parsed = {role: self._named(role, file, rows) for role in rows.columns}
        objects = parsed["object"]
        if self._type == "auto":
            others = [one for role, one in parsed.items() if role != "object"]
            self._need_integers(objects, others, file, rows)
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

    def _named(self, role: Role, file: str, rows: Rows) -> Parsed:
        name = rows.names[role]
        self._names.setdefault(role, {})[name] = None
        try:
            return self._parse(role, rows.columns[role])
        except LogError as error:
            raise LogError(f"log {file!r}, column {name!r}: {error}") from error

    def _parse(self, role: Role, column: Column) -> Parsed:
        if role == "object":
            return self._objects(column)
        if role == "time":
            return self._clock.parse(column)
        parsed = integers(column, role)
        limit = np.iinfo(np.int32 if role == "epoch" else np.int64).max
        values = np.asarray(parsed.values.to_numpy(), np.uint64)
        beyond = values > limit
        faults = (*parsed.faults, (f"{role} above {limit}", beyond))
        if role == "epoch":
            if not self._epochs_known and len(values):
                _refuse_times(values)
                self._epochs_known = True
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
            declared = pa.types.is_string(kind) and not pa.types.is_decimal(column.type)
            if declared or pa.types.is_fixed_size_binary(kind):
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


def _refuse_times(epochs: NDArray[np.uint64]) -> None:
    """Refuse epochs that are times since 1970, as every one of them would be a window.

    Raises:
        LogError: they are large, and nearly all distinct or dates of this century.
    """
    median = int(np.median(epochs))
    dates = any(SINCE_2000_S * unit <= median <= 4 * SINCE_2000_S * unit for unit in UNITS)
    if len(epochs) > 1 and median > _MOST_EPOCHS and (dates or len(np.unique(epochs)) * 10 > len(epochs) * 9):
        what = f"values like {median} are times, not numbers of epochs, and each would be a window of its own"
        raise LogError(f"{what}; name it as time_column (--time-column), or another one as epoch_column")


def _taken(parsed: Parsed | None, good: NDArray[np.int64]) -> Any:  # noqa: ANN401 -- the caller knows the type
    if parsed is None:
        return None
    return parsed.values.to_numpy(zero_copy_only=False)[good].astype(np.int64)
