"""`foreshard gc`: what nothing needs any more, and its deletion."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from foreshard.cli.output import console, megabytes, note, print_json, progress_bar, short, table
from foreshard.cli.place import JsonOption, Place
from foreshard.errors import ConfigError
from foreshard.retention import RetentionConfig

if TYPE_CHECKING:
    from foreshard.shards.gc_report import GcReport

_PANEL = "Retention (overrides the configuration's `retention`)"


def gc(
    place: Place,
    *,
    delete: Annotated[bool, typer.Option("--delete", help="Delete it; without this nothing is changed.")] = False,
    keep_generations: Annotated[
        int | None, typer.Option(min=1, help="Keep so many last generations of every run.", rich_help_panel=_PANEL)
    ] = None,
    keep_hours: Annotated[
        float | None,
        typer.Option(min=0, help="Keep layouts so long after commit or replacement.", rich_help_panel=_PANEL),
    ] = None,
    orphan_hours: Annotated[
        float | None,
        typer.Option(min=0, help="Keep what belongs to no layout for so long.", rich_help_panel=_PANEL),
    ] = None,
    every: Annotated[bool, typer.Option("--list", help="List the key of every object to delete.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what nothing needs any more and why the rest stays; with --delete, delete it.

    The current layout, those under a live lease and those that the retention policy names stay. Nothing is deleted
    while something is being written. It may be interrupted and run again.
    """
    given = {"keep_generations": keep_generations, "keep_hours": keep_hours, "orphan_hours": orphan_hours}
    policy = _policy(place.retention, given)
    if delete:
        with progress_bar("deleting", "objects") as progress:
            report = place.repository.run_gc(policy, progress=progress)
    else:
        report = place.repository.plan_gc(policy)
    if as_json:
        print_json(_as_json(report, every=every))
    else:
        _show(report, policy, every=every)
    if delete and report.blocked is not None:
        raise typer.Exit(1)


def _policy(base: RetentionConfig, given: dict[str, float | None]) -> RetentionConfig:
    told = {name: value for name, value in given.items() if value is not None}
    try:
        return RetentionConfig.model_validate({**base.model_dump(), **told})
    except ValidationError as error:
        wrong = error.errors()[0]
        option = "--" + str(wrong["loc"][0]).replace("_", "-")
        raise ConfigError(f"{option} {wrong['input']!r} is not usable: {wrong['msg']}") from None


def _as_json(report: "GcReport", *, every: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "now": report.now.isoformat(),
        "executed": report.executed,
        "complete": report.complete,
        "blocked": report.blocked,
        "deleted": report.deleted,
        "total": vars(report.total),
        "categories": {name: vars(amount) for name, amount in report.amounts().items()},
        "kept": {str(ref): list(reasons) for ref, reasons in report.kept.items()},
        "doomed": [str(ref) for ref in report.doomed],
        "uploads": [upload.key for upload in report.uploads],
    }
    return {**found, "objects": report.keys} if every else found


def _show(report: "GcReport", policy: RetentionConfig, *, every: bool) -> None:
    printed = console()
    layouts = table("layout", "", "why", left=("layout", "", "why"), wrap=("why",))
    for ref, reasons in report.kept.items():
        layouts.add_row(short(ref), "stays", "; ".join(reasons))
    why = f"not among the last {policy.keep_generations} of its run, older than {policy.keep_hours:g} h, no lease"
    for ref in report.doomed:
        layouts.add_row(short(ref), "goes", why)
    if report.kept or report.doomed:
        printed.print(layouts)
    amounts = table("objects that nothing needs", "count", "MB", left=("objects that nothing needs",))
    for name, amount in report.amounts().items():
        if amount.objects:
            amounts.add_row(_WORDS[name], f"{amount.objects:,}", megabytes(amount.bytes))
    total = report.total
    if total.objects:
        printed.print(amounts)
    if every:
        for key in report.keys:
            printed.print(f"  {key}", soft_wrap=True)
    uploads = f" and {len(report.uploads)} abandoned uploads" if report.uploads else ""
    if report.executed:
        printed.print(f"deleted {report.deleted:,} of {total.objects:,} objects ({megabytes(total.bytes)} MB){uploads}")
    elif total.objects or report.uploads:
        printed.print(f"{total.objects:,} objects ({megabytes(total.bytes)} MB){uploads} may go: foreshard gc --delete")
    else:
        printed.print("nothing to delete")
    if report.blocked is not None:
        note(report.blocked)


_WORDS = {
    "header": "headers of layouts that go",
    "layout": "other parts of them",
    "shard": "shards",
    "unfinished": "parts of unfinished layouts",
    "part": "parts left by interrupted attempts",
    "journal": "journals of finished layouts",
    "publication": "publications that never came about",
    "lease": "leases that have run out",
}
