"""`foreshard diff`: what changed from one layout to another."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from foreshard.cli.output import console, facts, megabytes, plain, print_json, short, table
from foreshard.cli.place import GenerationArgument, JsonOption, Place

if TYPE_CHECKING:
    from foreshard.shards.compare import LayoutDiff


def diff(
    place: Place,
    old: Annotated[str, typer.Argument(help="The earlier layout, like demo.e000000.", show_default=False)],
    new: GenerationArgument = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show what changed from one layout to another: chunks, rows, nodes, shard objects, and what it cost to write.

    A chunk is the same where it holds the same samples, a shard where it is the same object. No shard is read.
    """
    from foreshard.shards.compare import compare_layouts

    found = compare_layouts(place.repository, place.resolve(old), place.resolve(new))
    if as_json:
        print_json(_as_json(found))
    else:
        _show(found)


def _as_json(found: "LayoutDiff") -> dict[str, Any]:
    return {
        "old": str(found.old),
        "new": str(found.new),
        "strategies": plain(found.strategies),
        "nodes": plain(found.nodes),
        "fingerprints": plain(found.fingerprints),
        "chunks": {name: vars(amount) for name, amount in found.chunks.items()},
        "rows": dict(found.rows),
        "moves": [vars(move) for move in found.moves],
        "shards": {name: vars(amount) for name, amount in found.shards.items()},
        "written_bytes": found.shards["new"].bytes,
        "write_amplification": found.write_amplification,
        "splits_equal": found.split_problem is None,
        "split_problem": found.split_problem,
    }


def _show(found: "LayoutDiff") -> None:
    printed = console()
    changed = " -> ".join(dict.fromkeys(found.strategies))
    snapshots = " -> ".join(dict.fromkeys(found.fingerprints))
    nodes = " -> ".join(dict.fromkeys(", ".join(names) for names in found.nodes))
    printed.print(
        facts(
            [
                ("from", str(found.old)),
                ("to", str(found.new)),
                ("strategy", changed),
                ("nodes", nodes),
                ("snapshot", snapshots),
                ("splits", found.split_problem or "equal on the rows that both hold"),
            ]
        )
    )
    shown = table("", "common", "MB", "new", "MB", "gone", "MB", left=("",))
    for name, amounts in (("chunks", found.chunks), ("shards", found.shards)):
        cells = [each for kind in ("common", "new", "gone") for each in _cells(amounts[kind])]
        shown.add_row(name, *cells)
    rows = found.rows
    printed.print(shown)
    printed.print(f"rows: {rows['common']:,} in the same chunk, {rows['moved']:,} in another one", end="")
    printed.print(f", {rows['new']:,} new, {rows['gone']:,} gone")
    ratio = found.write_amplification
    written = f"written: {megabytes(found.shards['new'].bytes)} MB of shards"
    printed.print(f"{written}, {ratio:.2f} times the bytes of new chunks" if ratio is not None else written)
    if found.moves:
        moves = table("from node", "to node", "chunks", "MB", left=("from node", "to node"))
        for move in found.moves:
            moves.add_row(move.source, move.target, f"{move.chunks:,}", megabytes(move.bytes))
        printed.print(f"\nchunks of {short(found.old)} that {short(found.new)} reads on another node:")
        printed.print(moves)
    else:
        printed.print("no chunk that both have changed its node")


def _cells(amount: Any) -> tuple[str, str]:  # noqa: ANN401 - Amount, which is imported late
    return f"{amount.objects:,}", megabytes(amount.bytes)
