"""`foreshard rebuild`: make a layout again from its plan and the source, and compare."""

import signal
from collections.abc import Generator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from foreshard.cli.output import console, megabytes, note, problems, progress_bar, short, table
from foreshard.cli.place import GenerationArgument, Place, local_url

if TYPE_CHECKING:
    from foreshard.shards.materialize import Execution
    from foreshard.shards.rebuild import Rebuilt
    from foreshard.shards.repository import Repository

_SHOWN: Final = 5


class Executor(StrEnum):
    """Where shards are made."""

    THREADS = "threads"
    PROCESSES = "processes"
    SERIAL = "serial"


def rebuild(
    place: Place,
    generation: GenerationArgument = None,
    *,
    into: Annotated[
        str | None,
        typer.Option("--into", help="Store to make it in, and keep it; a temporary folder if left out."),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Groups of shards made at a time.")] = 2,
    executor: Annotated[Executor, typer.Option("--executor", help="Where they are made.")] = Executor.THREADS,
    spool: Annotated[
        Path | None, typer.Option("--spool", help="Folder for temporary files; the system's if left out.")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Put back what is missing or damaged in the repository.")
    ] = False,
) -> None:
    """Make a layout again from its recorded plan and the source alone, and compare every digest; exit 1 if one differs.

    Neither shards of other layouts nor earlier attempts are used, so that this proves the layout reproducible. With
    --repair, objects that are missing or damaged are put back, if what was made has the recorded digest; gc waits.
    """
    from foreshard.shards.rebuild import rebuild as make
    from foreshard.shards.rebuild import rebuild_space
    from foreshard.storage import ObjectStore

    repository, ref = place.repository, place.resolve(generation)
    with ExitStack() as stack:
        if into is not None:
            target = ObjectStore.open(local_url(into))
        else:
            target = stack.enter_context(rebuild_space(repository, ref, spool))
        execution = stack.enter_context(_execution(executor, workers, spool))
        with progress_bar(f"rebuilding {short(ref)}", "shards") as progress:
            rebuilt = make(repository, ref, target, execution=execution, progress=progress)
        _show(rebuilt)
        whole = _repaired(repository, rebuilt) if repair else _looked_at(repository, rebuilt)
    if not rebuilt.ok or not whole:
        raise typer.Exit(1)


@contextmanager
def _execution(executor: Executor, workers: int, spool: Path | None) -> "Generator[Execution]":
    from foreshard.shards.materialize import Execution

    if executor is Executor.PROCESSES:
        # Spawned, as clients of stores do not survive a fork.
        with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_leave_interrupts) as pool:
            yield Execution(workers, pool, spool=spool)
    else:
        yield Execution(1 if executor is Executor.SERIAL else workers, spool=spool)


def _leave_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle


def _show(rebuilt: "Rebuilt") -> None:
    printed = console()
    shown = table(
        "compared",
        "as recorded",
        "of",
        "first that differ",
        left=("compared", "first that differ"),
        wrap=("first that differ",),
    )
    for each in rebuilt.comparisons:
        different = "; ".join(each.different[:_SHOWN])
        shown.add_row(each.what, f"{each.same:,}", f"{each.total:,}", different)
    printed.print(shown)
    verdict = "reproduced" if rebuilt.ok else "NOT REPRODUCED"
    where = f"{megabytes(rebuilt.bytes)} MB in {rebuilt.seconds:.1f} s"
    printed.print(f"{rebuilt.ref}: {verdict}, {rebuilt.manifest.header.shards:,} shards, {where}", soft_wrap=True)
    if not rebuilt.ok:
        printed.print(f"  written by  {_versions(rebuilt.recorded)}", soft_wrap=True)
        printed.print(f"  running now {_versions(rebuilt.running)}", soft_wrap=True)


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))


def _looked_at(repository: "Repository", rebuilt: "Rebuilt") -> bool:
    """Tell of shards that are obviously missing in the repository; reading them all is what --repair does."""
    from foreshard.shards.repair import damaged_shards

    if not rebuilt.ok:
        return False
    wrong = list(damaged_shards(repository, rebuilt, read=False).values())
    if wrong:
        problems(wrong[:_SHOWN], console())
        note(f"objects are missing or damaged in {repository.store.url}: {len(wrong)}; --repair puts them back")
    return not wrong


def _repaired(repository: "Repository", rebuilt: "Rebuilt") -> bool:
    from foreshard.shards.repair import repair

    with progress_bar("looking for damage", "shards") as progress:
        outcome = repair(repository, rebuilt, progress=progress)
    printed = console()
    for key in outcome.restored:
        printed.print(f"  put back {key}", soft_wrap=True)
    problems(outcome.left, printed)
    if not outcome.restored and not outcome.left:
        printed.print("nothing to repair: every object is there and intact")
    return not outcome.left
