"""What a report on a forecast says, apart from how it is shown: the terminal and the page say the same."""

from collections.abc import Sequence
from dataclasses import dataclass, field

Cell = str | int | float | None


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: its heading.
        format: how its numbers are written, like `,.2f` or `.1%`; texts are written as they are.
        left: whether it is to the left, as texts are.
    """

    name: str
    format: str = ""
    left: bool = False

    def text(self, cell: Cell) -> str:
        """Return a cell as it is shown; a dash where there is nothing."""
        if cell is None:
            return "-"
        return cell if isinstance(cell, str) else format(cell, self.format)


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        columns: what they are called and how they are written.
        rows: a cell for each column.
        marked: numbers of the rows that stand out.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    marked: frozenset[int] = frozenset()

    def texts(self) -> list[list[str]]:
        """Return the rows as they are shown."""
        return [[column.text(cell) for column, cell in zip(self.columns, row, strict=True)] for row in self.rows]


@dataclass(frozen=True)
class Section:
    """One part of a report: its parts are shown in this order.

    Attributes:
        title: heading.
        sentences: what to say.
        facts: names and values.
        grid: a table.
        pictures: names of the plots that belong to it.
        notes: small print.
    """

    title: str
    sentences: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    grid: Grid | None = None
    pictures: Sequence[str] = field(default=())
    notes: Sequence[str] = ()


def printable(name: object, most: int = 60) -> str:
    """Return a name from a log that is safe to show: no control characters, and cut in the middle if it is long."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(name))
    return text if len(text) <= most else f"{text[: most // 3]}...{text[len(text) - (most - most // 3 - 3) :]}"
