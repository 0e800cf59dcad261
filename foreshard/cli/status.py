"""`foreshard status`: the committed layouts of a dataset, from their headers."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import typer

from foreshard.cli.output import console, megabytes, plain, print_json, problems, short, table
from foreshard.cli.place import JsonOption, Place
from foreshard.errors import CorruptDataError, ObjectNotFoundError
from foreshard.keys import LayoutRef

if TYPE_CHECKING:
    from foreshard.shards.header import Header
    from foreshard.shards.repository import Repository

_READS: Final = 8
_WIDE: Final = 95
"""Columns from which on names fit beside figures without being broken."""


@dataclass(frozen=True)
class _Layout:
    ref: LayoutRef
    header: "Header | None"
    stored: int
    problem: str | None


def status(place: Place, *, as_json: JsonOption = False) -> None:
    """Show the dataset's layouts and which one new readers open.

    MB are those of the shard objects that a layout reads; layouts share objects.
    """
    repository = place.repository
    current = repository.current()
    refs = place.layouts(None)
    with ThreadPoolExecutor(_READS, "foreshard-status") as pool:
        layouts = list(pool.map(partial(_read, repository), refs))
    newest = current.ref if current is not None else None
    wrong = [layout.problem for layout in layouts if layout.problem]
    if newest is not None and newest not in refs:
        wrong.append(f"new readers are pointed to {newest}, which is not committed: publish another layout")
    if as_json:
        print_json([_as_json(layout, newest) for layout in layouts])
    elif not layouts:
        where = f"{repository.store.url} under dataset {repository.keys.dataset!r}"
        console().print(f"no layouts yet in {where}; make the first: foreshard reshard <run>.e000000", soft_wrap=True)
    else:
        _show(layouts, newest)
        problems(wrong, console())
    if wrong:
        raise typer.Exit(1)


def _read(repository: "Repository", ref: LayoutRef) -> _Layout:
    import pyarrow as pa

    from foreshard.shards.parts import load_part

    try:
        header = repository.header(ref)
        part = load_part(repository.store, repository.keys, ref, header.parts["shards"])
        sizes = pa.ipc.open_file(pa.BufferReader(part)).get_batch(0).column("size").to_numpy()
        return _Layout(ref, header, int(sizes.sum()), None)
    except (CorruptDataError, ObjectNotFoundError) as error:
        return _Layout(ref, None, 0, str(error))


def _as_json(layout: _Layout, newest: LayoutRef | None) -> dict[str, object]:
    header = layout.header
    about: dict[str, object] = {"layout": str(layout.ref), "current": layout.ref == newest, "problem": layout.problem}
    if header is None:
        return about
    figures = {name: getattr(header, name) for name in ("strategy", "rows", "chunks", "shards", "parent", "nodes")}
    return {**about, **plain(figures), "bytes": layout.stored}


def _show(layouts: list[_Layout], newest: LayoutRef | None) -> None:
    words = ("layout", "strategy", "parent", "current")
    wrap = ("parent",) if console().width >= _WIDE else words
    shown = table("layout", "strategy", "rows", "chunks", "shards", "MB", "parent", "current", left=words, wrap=wrap)
    for layout in layouts:
        header, is_current = layout.header, "yes" if layout.ref == newest else ""
        figures = ["DAMAGED", "", "", "", "", ""]
        if header is not None:
            counts = [f"{count:,}" for count in (header.rows, header.chunks, header.shards)]
            figures = [header.strategy, *counts, megabytes(layout.stored), short(header.parent)]
        shown.add_row(short(layout.ref), *figures, is_current)
    console().print(shown)
