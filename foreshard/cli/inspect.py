"""`foreshard inspect`: what a layout consists of."""

import json
from typing import Annotated, Any, Final

import typer

from foreshard.cli.output import console, facts, megabytes, print_json, table
from foreshard.cli.place import GenerationArgument, JsonOption, Place
from foreshard.errors import ConfigError

_COLUMNS: Final = 12


def inspect(
    place: Place,
    generation: GenerationArgument = None,
    *,
    chunk: Annotated[int | None, typer.Option("--chunk", help="Show one chunk and how it can be made again.")] = None,
    shard: Annotated[int | None, typer.Option("--shard", help="List the chunks of one shard.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a layout consists of: where it comes from, chunks per node and split, what it took over.

    Hot and cold are the mean rows of the tenth of chunks with most and fewest draws per row, where draws were counted.
    """
    from foreshard.cli.facts import chunk_facts, layout_facts, shard_facts

    if chunk is not None and shard is not None:
        raise ConfigError(f"--chunk {chunk} and --shard {shard} are both given; ask for one of them")
    repository, ref = place.repository, place.resolve(generation)
    manifest = repository.open(ref)
    if chunk is not None:
        found, show = chunk_facts(manifest, repository.consistency(ref), chunk), _show_chunk
    elif shard is not None:
        found, show = shard_facts(manifest, shard), _show_shard
    else:
        found, show = layout_facts(manifest, repository.load_plan(ref)), _show_layout
    if as_json:
        print_json(found)
    else:
        show(found)


def _show_layout(found: dict[str, Any]) -> None:
    printed, taken = console(), found["inherited"]
    columns = [f"{name} {kind}" for name, kind in found["columns"].items()]
    more = f" and {len(columns) - _COLUMNS} more" if len(columns) > _COLUMNS else ""
    size = f"{megabytes(found['bytes'])} MB in chunks, {megabytes(found['stored_bytes'])} MB in shard objects"
    inherited = f"{taken['shards']:,} of {found['shards']:,} shards, {megabytes(taken['bytes'])} MB"
    retired = f"{taken['retired_chunks']:,} chunks ({taken['retired_rows']:,} rows) that shards it took over still hold"
    rows = [
        ("layout", found["layout"]),
        ("dataset", found["dataset"]),
        ("parent", found["parent"] or "none: a first layout"),
        ("snapshot", found["snapshot"]),
        ("strategy", found["strategy"]),
        ("decision", f"{found['decision']}: {found['reason']}"),
        ("seed", f"root {found['root_seed']}, algorithm {found['algorithm_version']}"),
        ("written by", ", ".join(f"{name} {version}" for name, version in found["versions"].items())),
        ("columns", ", ".join(columns[:_COLUMNS]) + more),
        ("holds", f"{found['rows']:,} rows in {found['chunks']:,} chunks in {found['shards']:,} shards"),
        ("size", f"{size}, compression {found['compression']}"),
        ("inherited", inherited),
        ("retired", f"{retired}, {megabytes(taken['retired_bytes'])} MB" if taken["retired_chunks"] else "nothing"),
    ]
    printed.print(facts(rows))
    names = ("rows/chunk", "min", "max", "hot", "cold")
    shown = table("", "chunks", "rows", "MB", *names, left=("",))
    for group in ("nodes", "splits"):
        for each in found[group]:
            per_chunk = ("mean_rows", "min_rows", "max_rows", "hottest_rows", "coldest_rows")
            cells = [f"{each['chunks']:,}", f"{each['rows']:,}", megabytes(each["bytes"])]
            shown.add_row(each["name"], *cells, *(_count(each[name]) for name in per_chunk))
        shown.add_section()
    printed.print(shown)


def _show_chunk(found: dict[str, Any]) -> None:
    where = f"bytes [{found['start']:,}, {found['end']:,}) of shard {found['shard']}, {found['shard_key']}"
    origin = ", ".join(f"{name} {value}" for name, value in found["origin"].items())
    rows = [
        ("chunk", str(found["chunk"])),
        ("where", where),
        ("rows", f"{found['rows']:,} of split {found['split']}, on {found['node']}, group {found['group']}"),
        ("checksum", f"XXH3-64 {found['checksum']}"),
        ("access", f"{found['access_count']:,.0f} draws counted, score {found['prediction_score']:.4f}"),
        ("content id", found["content_id"]),
        ("strategy", found["strategy"]),
        ("origin", origin),
        ("seed", found["seed"]),
        ("PRNG state", json.dumps(found["prng_state"])),
        ("algorithm", str(found["algorithm_version"])),
        ("order", f"SHA-256 {found['order_sha256']}"),
    ]
    console().print(facts(rows))


def _show_shard(found: dict[str, Any]) -> None:
    printed = console()
    size = f"{found['size']:,} bytes, {found['chunk_bytes']:,} of them in chunks of this layout"
    printed.print(facts([("shard", str(found["shard"])), ("key", found["key"]), ("size", size)]))
    shown = table("chunk", "start", "end", "rows", "node", "split", "checksum", left=("node", "split"))
    for row in found["chunks"]:
        numbers = [f"{row[name]:,}" for name in ("chunk", "start", "end", "rows")]
        shown.add_row(*numbers, row["node"], row["split"], row["checksum"])
    printed.print(shown)


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
