"""How commands print: tables as wide as the terminal, JSON, progress bars and errors on standard error."""

import json
import os
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from foreshard.errors import ForeshardError
from foreshard.keys import LayoutRef

_PIPE_WIDTH: Final = 200
"""Columns where nobody looks: a pipe to grep must not have lines cut."""
_DIGITS: Final = 8


def console() -> Console:
    """Return what results are printed to."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
    return Console(width=width, highlight=False, markup=False)


def print_json(value: object) -> None:
    """Print a value for machines."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def note(text: str) -> None:
    """Tell of something beside the results, in one line on standard error."""
    Console(stderr=True, highlight=False).print(f"[yellow]note:[/] {escape(text)}", soft_wrap=True)


@contextmanager
def errors_told() -> Generator[None]:
    """End with exit code 1 and a line on standard error where foreshard refuses something, without a traceback."""
    try:
        yield
    except ForeshardError as error:
        told = Console(stderr=True, highlight=False)
        told.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from None


@contextmanager
def progress_bar(what: str, unit: str) -> Generator[Callable[[int, int], None]]:
    """Show a bar on standard error while a block runs; nothing where that is no terminal.

    Args:
        what: what is being done.
        unit: what is counted.

    Yields:
        Takes (done, total).
    """
    shown = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal) as progress:
        task = progress.add_task(what, total=None)

        def update(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield update


@contextmanager
def stages(total: int) -> Generator[Callable[[str], None]]:
    """Show on standard error which of several steps a block is at; nothing where that is no terminal.

    Args:
        total: how many steps there will be.

    Yields:
        Takes what the next step does.
    """
    shown = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal) as progress:
        task, begun = progress.add_task("", total=total), 0

        def begin(what: str) -> None:
            nonlocal begun
            progress.update(task, description=escape(what), completed=begun)
            begun += 1

        yield begin


def table(*columns: str, left: Sequence[str] = (), wrap: Sequence[str] = ()) -> Table:
    """Return an empty table; columns of text (`left`) are to the left, and those in `wrap` give way first."""
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        found.add_column(
            name,
            justify="left" if name in left else "right",
            no_wrap=name not in wrap,
            overflow="fold" if name in wrap else "ellipsis",  # a figure must not look like a smaller one
        )
    return found


def facts(rows: Sequence[tuple[str, str]], title: str | None = None) -> Table:
    """Return names and values as two columns without a header."""
    found = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
    found.add_column(style="dim", no_wrap=True)
    found.add_column(overflow="fold")
    for name, value in rows:
        found.add_row(name, value)
    return found


# -- values --------------------------------------------------------------------------------------------


def megabytes(count: float) -> str:
    """Return bytes as MB with enough digits to tell small things apart."""
    value = count / 1e6
    return f"{value:,.1f}" if abs(value) >= 10 or not count else f"{value:,.3f}"  # noqa: PLR2004 - three digits


def short(ref: LayoutRef | None) -> str:
    """Return a layout as a command takes it, with its digest cut."""
    return f"{ref.generation}/{ref.plan_digest[:_DIGITS]}" if ref is not None else "-"


def moment(text: str) -> str:
    """Return an ISO 8601 time to the second, as it stands in UTC."""
    try:
        return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S}"
    except ValueError:
        return text or "-"


def problems(lines: Sequence[str], printed: Console) -> None:
    """Print what is wrong, a line each."""
    for line in lines:
        printed.print(f"  - {line}", soft_wrap=True)


def plain(value: Any) -> Any:  # noqa: ANN401 - whatever JSON can hold
    """Return a value with layouts as text, tuples as lists and bytes as hexadecimal, to be printed as JSON."""
    if isinstance(value, LayoutRef):
        return str(value)
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value.hex() if isinstance(value, bytes) else value
