"""`foreshard verify`: read everything and compare it with what it claims."""

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from foreshard.cli.output import console, megabytes, note, problems, progress_bar, short
from foreshard.cli.place import GenerationArgument, Place
from foreshard.errors import AccessDeniedError, CorruptDataError, ObjectNotFoundError
from foreshard.keys import LayoutRef

if TYPE_CHECKING:
    from foreshard.shards.repository import Repository


def verify(
    place: Place,
    generation: GenerationArgument = None,
    *,
    every: Annotated[
        bool, typer.Option("--all", help="Verify every committed layout, or every one of GENERATION.")
    ] = False,
) -> None:
    """Check that every byte of a layout is as it claims; exit code 1 if not.

    Checked are the checksum of every chunk and shard, that every row is there exactly once, that splits are pure and
    the same as in the parent's snapshot, and that seeds, PRNG states and orders follow from the recorded plan. A
    lease keeps gc away from the layout meanwhile.
    """
    repository = place.repository
    refs = place.layouts(generation) if every else [place.resolve(generation)]
    damaged = [ref for ref in refs if not _verified(repository, ref)]
    if len(refs) != 1:
        console().print(f"{len(refs) - len(damaged)} of {len(refs)} layouts are intact")
    if damaged:
        raise typer.Exit(1)


def _verified(repository: "Repository", ref: LayoutRef) -> bool:
    printed = console()
    with ExitStack() as held:
        try:
            try:
                held.enter_context(repository.lease_reader(ref)).keep()
            except AccessDeniedError:
                note(f"no lease on {short(ref)}, as nothing may be written here: gc may remove it meanwhile")
            with progress_bar(f"verifying {short(ref)}", "shards") as progress:
                report = repository.verify(ref, progress)
            wrong = [*report.problems, *_splits(repository, ref)]
        except (CorruptDataError, ObjectNotFoundError) as error:
            printed.print(f"{ref}: DAMAGED")
            problems([str(error)], printed)
            return False
    counted = f"{report.shards:,} shards, {report.chunks:,} chunks, {report.rows:,} rows, {megabytes(report.bytes)} MB"
    printed.print(f"{ref}: {'DAMAGED' if wrong else 'intact'}, {counted}", soft_wrap=True)
    problems(wrong, printed)
    if wrong:
        printed.print(f"to repair what can be made again: foreshard rebuild {short(ref)} --repair", soft_wrap=True)
    return not wrong


def _splits(repository: "Repository", ref: LayoutRef) -> list[str]:
    """Return what is wrong with the splits of the rows that the layout and its parent both hold."""
    from foreshard.shards.compare import compare_splits

    header = repository.header(ref)
    if header.parent is None or not repository.committed(header.parent):
        return []
    before = repository.header(header.parent).fingerprint
    problem = compare_splits(repository, before, header.fingerprint)
    return [f"splits differ from those of parent {header.parent}: {problem}"] if problem else []
