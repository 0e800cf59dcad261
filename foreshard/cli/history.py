"""`foreshard history`: what the pointer to the current layout ever said."""

from itertools import islice
from typing import Annotated

import typer

from foreshard.cli.output import console, moment, print_json, short, table
from foreshard.cli.place import JsonOption, Place


def history(
    place: Place,
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Show so many, the newest first.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Show which layouts were published, newest first: fence, when, what, and what it replaced."""
    repository = place.repository
    found = list(islice(repository.publications(), limit + 1))
    before = [*(move.ref for move in found[1:]), None][: len(found)]
    moves = list(zip(found, before, strict=True))[:limit]
    if as_json:
        print_json(
            [
                {
                    "fence": move.fence,
                    "at": move.at,
                    "generation": move.ref.generation,
                    "plan": move.ref.plan_digest,
                    "previous": str(previous) if previous else None,
                }
                for move, previous in moves
            ]
        )
        return
    if not moves:
        console().print(f"nothing was published yet in {repository.store.url}", soft_wrap=True)
        return
    shown = table("fence", "when (UTC)", "generation", "plan", "previous", left=("generation", "plan", "previous"))
    for move, previous in moves:
        digest = move.ref.plan_digest
        shown.add_row(str(move.fence), moment(move.at), move.ref.generation, digest[:16], short(previous))
    console().print(shown)
    if len(found) > limit:
        console().print(f"and older ones: --limit {2 * limit}")
