"""`foreshard reshard`: the whole chain here and now."""

from typing import Annotated

import typer
from rich.console import Console

from foreshard.cli.output import console, errors_told, facts, progress_bar
from foreshard.cli.place import DEFAULT_CONFIG, ConfigOption
from foreshard.keys import parse_generation_key

_SHOWN = 8


def reshard(
    generation: Annotated[str, typer.Argument(help="What to make, like demo.e000004.")],
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Run the whole chain for one generation here and now, without Dagster, and publish it.

    What finished before is not done again: after a crash, run the same command.
    """
    with errors_told():
        from foreshard.chain import Chain
        from foreshard.config import load_config

        parse_generation_key(generation)
        chain = Chain(load_config(config))
        with progress_bar("profile, consistency trials, predictor", "trials") as progress:
            chain.prepare(progress)
        told = Console(stderr=True)
        if told.is_terminal:
            with told.status(f"re-sharding {generation}: events, forecast, scores, plan, shards, prefetch, publish"):
                results = chain.reshard(generation)
        else:
            results = chain.reshard(generation)
        for name, result in results.items():
            rows = [(key, _text(value)) for key, value in list(result.metadata.items())[:_SHOWN]]
            console().print(facts(rows, title=name))


def _text(value: object) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)
