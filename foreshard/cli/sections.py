"""Sections of a report on the terminal."""

from typing import TYPE_CHECKING

from rich.text import Text

from foreshard.cli.output import console, facts, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foreshard.forecast.sections import Grid, Section


def show_sections(sections: "Sequence[Section]") -> None:
    """Print sections; their pictures are for pages."""
    printed = console()
    for number, section in enumerate(sections):
        if number:
            printed.print()
        printed.print(Text(section.title, style="bold"))
        for sentence in section.sentences:
            printed.print(sentence)
        if section.facts:
            printed.print(facts(section.facts))
        if section.grid is not None:
            _show_grid(section.grid)
        for text in section.notes:
            printed.print(Text(text, style="dim"))


def _show_grid(grid: "Grid") -> None:
    left = [column.name for column in grid.columns if column.left]
    shown = table(*(column.name for column in grid.columns), left=left, wrap=left)
    for number, texts in enumerate(grid.texts()):
        shown.add_row(*texts, style="bold" if number in grid.marked else None)
    console().print(shown)
