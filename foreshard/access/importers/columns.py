"""Finds the columns of a table that name object, time, epoch and size."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from foreshard.access.importers.options import Options
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
