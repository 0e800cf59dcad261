"""The command line: what lies in a repository, whether it is intact, and the chain without an orchestrator."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from foreshard.errors import ConfigError, ForeshardError
from foreshard.keys import parse_generation_key

if TYPE_CHECKING:
    from foreshard.chain import Chain
    from foreshard.keys import LayoutRef

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="foreshard learns how training jobs read a dataset, re-packs it, and feeds it before the loop asks.",
)
Config = Annotated[
    Path, typer.Option("--config", "-c", help="Dataset, store, cluster and recipe.", envvar="FORESHARD_CONFIG")
]
_DEFAULT = Path("foreshard.yaml")


def main() -> None:
    """Run the command line; errors foreshard knows are printed without a traceback."""
    try:
        app()
    except ForeshardError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {error}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from error


@app.command()
def status(config: Config = _DEFAULT) -> None:
    """Show the dataset's generations and which layout new readers open."""
    chain = _chain(config)
    current = chain.repository.current()
    table = Table("generation", "plan", "strategy", "chunks", "shards", "MB", "current")
    for generation in chain.repository.generations():
        for ref in chain.repository.layouts(generation):
            manifest = chain.repository.open(ref)
            table.add_row(
                generation,
                ref.plan_digest[:12],
                manifest.header.strategy,
                f"{len(manifest):,}",
                f"{len(manifest.shards):,}",
                f"{manifest.nbytes.sum() / 1e6:,.1f}",
                "yes" if current is not None and current.ref == ref else "",
            )
    Console().print(table)


@app.command()
def verify(
    generation: Annotated[
        str | None, typer.Argument(help="Generation key, like demo.e000004; the current one if left out.")
    ] = None,
    config: Config = _DEFAULT,
) -> None:
    """Check every checksum, that every row is there exactly once, that splits are pure and seeds replay."""
    chain, console = _chain(config), Console()
    for ref in _refs(chain, generation):
        with console.status(f"verifying {ref}"):
            report = chain.repository.verify(ref)
        console.print(f"{ref}: {'intact' if report.ok else 'DAMAGED'}, {report.chunks} chunks, {report.rows} rows")
        for problem in report.problems:
            console.print(f"  {problem}", highlight=False)
        if not report.ok:
            raise typer.Exit(1)


@app.command()
def reshard(
    generation: Annotated[str, typer.Argument(help="Generation key, like demo.e000004.")], config: Config = _DEFAULT
) -> None:
    """Run the whole chain for one generation here and now, without Dagster; done stages are not done again."""
    parse_generation_key(generation)
    chain, console = _chain(config), Console()
    with console.status("preparing: profile, consistency trials and predictor"):
        chain.prepare()
    with console.status(f"re-sharding {generation}"):
        results = chain.reshard(generation)
    for name, result in results.items():
        console.print(f"{name}: {', '.join(f'{k} {v}' for k, v in list(result.metadata.items())[:8])}", highlight=False)


def _chain(config: Path) -> "Chain":
    from foreshard.chain import Chain
    from foreshard.config import load_config

    return Chain(load_config(config))


def _refs(chain: "Chain", generation: str | None) -> "list[LayoutRef]":
    if generation is not None:
        parse_generation_key(generation)
        refs = chain.repository.layouts(generation)
        if not refs:
            known = ", ".join(chain.repository.generations()) or "none yet"
            raise ConfigError(f"generation {generation!r} has no committed layout; there are {known}")
        return refs
    return [chain.repository.open().ref]
