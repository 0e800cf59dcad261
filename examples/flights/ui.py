"""`make ui`: the Dagster UI on the demo's instance."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from examples.flights import control_loop


def main(
    home: Annotated[Path, typer.Option(help="The demo's folder.")] = Path(".foreshard"),
    config: Annotated[Path, typer.Option(help="The demo's configuration.")] = Path("foreshard.yaml"),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 3000,
) -> None:
    """Serve the Dagster UI: graph, runs, materialisations, metadata and plots of `make run`. Ctrl-C ends it.

    It runs Dagster's daemon too, so that jobs can be launched and backfilled, unless `make run` has one running.
    """
    dagster_home = (home / "dagster").resolve()
    if not dagster_home.exists():
        Console().print(f"{home} has no Dagster instance yet: showing an empty one; `make run` fills it")
    control_loop.prepare_home(dagster_home)
    workspace = str(control_loop.ROOT / "workspace.yaml")
    if control_loop.is_locked(home / control_loop.RUN_LOCK):
        # The pages alone: a second daemon beside that of `make run` would act on the same sensors.
        program = "dagster-webserver"
        arguments = [program, "-w", workspace, "-h", host, "-p", str(port)]
    else:
        control_loop.hold_for_life(home / control_loop.UI_LOCK)
        program = "dg"
        arguments = [program, "dev", "-w", workspace, "--host", host, "--port", str(port)]
    program = str(Path(sys.executable).with_name(program))
    os.chdir(control_loop.ROOT)
    os.execve(program, arguments, control_loop.environment(dagster_home, config.resolve()))  # noqa: S606


if __name__ == "__main__":
    typer.run(main)
