"""`make run`: train on the flights while Dagster re-shards them, and the same without re-sharding as control."""

import fcntl
import json
import logging
import math
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from examples.flights import control_loop, report
from examples.flights.control_loop import ControlLoop
from examples.flights.model import COLUMNS
from examples.flights.source import prepare_source
from examples.flights.training import TrainingJob
from foreshard.access.markers import register_run
from foreshard.config import ForeshardConfig, load_config
from foreshard.errors import BudgetError, ConfigError, ForeshardError
from foreshard.loader.options import Logging
from foreshard.shards.repository import Repository
from foreshard.source import take_snapshot
from foreshard.storage import ObjectStore

RUN = "demo"
"""Name of the training job."""


def main(
    config: Annotated[Path, typer.Option(help="Dataset, store, cluster and recipe.")] = Path("foreshard.yaml"),
    home: Annotated[Path, typer.Option(help="Folder for everything the demo writes locally.")] = Path(".foreshard"),
    epochs: Annotated[int, typer.Option(min=2, help="Epochs to train.")] = 12,
    rows: Annotated[
        int | None, typer.Option(min=1000, help="Use only this many flights, spread over the year.")
    ] = None,
    draws: Annotated[float, typer.Option(min=0.001, max=1, help="Samples drawn per epoch, as a share of train.")] = 0.1,
    deadline: Annotated[float, typer.Option(min=1, help="Seconds a re-shard may take.")] = 300,
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw the last run away and start anew.")] = False,
) -> None:
    """Train a classifier on 336,776 flights while foreshard learns what it reads and re-shards the data under it.

    Run it again after it was stopped or killed and it resumes where it stood; after it has finished it starts anew.
    Nothing outside HOME and the store of CONFIG is written.
    """
    console = Console(width=None if sys.stdout.isatty() else 170)
    logging.getLogger("dagster").setLevel(logging.WARNING)
    try:
        settings = load_config(config)
        home.mkdir(parents=True, exist_ok=True)
        with _only_one(home):
            _clear(home, settings, console, fresh=fresh)
            kept = {"epochs": epochs, "rows": rows, "draws": draws, "config": config.read_text("utf-8")}
            new = _keep_settings(home, kept)
            _prepare_data(console, settings, home, rows, new=new)
            _run(console, settings, config.resolve(), home.resolve(), epochs, draws, deadline)
    except ForeshardError as error:
        # Without markup, which would swallow what stands in brackets in a message.
        console.print(Text.assemble(("error:", "bold red"), f" {error}"), soft_wrap=True)
        raise typer.Exit(1) from error


def _run(
    console: Console,
    config: ForeshardConfig,
    config_path: Path,
    home: Path,
    epochs: int,
    draws: float,
    deadline: float,
) -> None:
    every = config.reshard.every
    dagster_home = home / "dagster"
    control_loop.prepare_home(dagster_home)
    strays = control_loop.stop_strays(dagster_home)
    store = ObjectStore.open(config.store.url, endpoint=config.store.endpoint)
    repository = Repository(store, config.dataset.name)
    loop = ControlLoop(repository, dagster_home, RUN, every=every, deadline=deadline)
    if (recovered := loop.recover()) or strays:
        console.print(f"resuming: {strays} stray process(es) ended, {recovered} Dagster run(s) to be tried again")
    register_run(store, repository.keys, RUN, info={"epochs": epochs})
    with control_loop.daemon(dagster_home, config_path) as child, _bars(console) as bars:
        loop.watch(child)
        say = bars.add_task("", total=1, visible=False)

        def layout_of(epoch: int) -> Any:  # noqa: ANN401 - a LayoutRef
            ref = loop.layout(epoch, lambda text: bars.update(say, description=f"Dagster  {text}", visible=True))
            bars.update(say, visible=False)
            return ref

        first = layout_of(1)
        count = int(draws * _train_rows(repository, first))
        logs = Logging(RUN, uuid.uuid4().hex[:12], config.loader.phases)
        main_job = TrainingJob(config, repository, layout_of, home / "arms" / "main", logging=logs, draws=count)
        _train(bars, "re-sharded", main_job, epochs)
        loop.settle()
    with _bars(console) as bars:
        control = TrainingJob(
            config, repository, lambda _: first_layout(repository), home / "arms" / "control", logging=None, draws=count
        )
        _train(bars, "control   ", control, epochs)
    _finish(console, home, every, main_job, control)


def first_layout(repository: Repository) -> Any:  # noqa: ANN401 - a LayoutRef
    """Return the layout that was current before any access was known."""
    return repository.layouts(f"{RUN}.e000000")[0]


def _train(bars: Progress, name: str, job: TrainingJob, epochs: int) -> None:
    total = sum(job.steps(epoch) for epoch in range(1, epochs + 1))
    done = sum(job.steps(epoch) for epoch in range(1, job.progress.epochs + 1))
    task = bars.add_task(f"{name} training", total=total, completed=done)

    def on_epoch(row: dict[str, Any]) -> None:
        bars.console.print(
            f"{name} epoch {row['epoch']:>2} on {row['generation']}: {row['origin_bytes'] / 1e6:8.1f} MB from origin, "
            f"residency {row['residency_hit_rate']:.1%}, waited {row['wait_s']:.2f} s, AUC {row['auc']:.4f}",
            highlight=False,
        )

    job.train(epochs, lambda _: bars.advance(task), on_epoch)


def _finish(console: Console, home: Path, every: int, main_job: TrainingJob, control: TrainingJob) -> None:
    mine, theirs = main_job.progress, control.progress
    same_order = mine.order_digest == theirs.order_digest
    same_model = main_job.model_digest() == control.model_digest()
    verdict = [
        f"sample order {mine.order_digest[:16]} | {theirs.order_digest[:16]}",
        f"model        {main_job.model_digest()[:16]} | {control.model_digest()[:16]}",
        f"order identical: {'yes' if same_order else 'no'}, model identical: {'yes' if same_model else 'no'}",
    ]
    paths = report.write_report(home / "report", mine, theirs, every, verdict)
    console.print(report.epoch_table(mine.rows, theirs.rows, every))
    for line in report.summary(mine.rows, theirs.rows, every):
        console.print(line, highlight=False)
    console.print(f"report: {', '.join(str(p.name) for p in paths)} in {paths[0].parent}", highlight=False)
    (home / "finished").write_text("", encoding="utf-8")
    for line in verdict:
        console.print(line, highlight=False)
    if not (same_order and same_model):
        raise typer.Exit(1)


def _prepare_data(console: Console, config: ForeshardConfig, home: Path, rows: int | None, *, new: bool) -> None:
    """Write the source once, and refuse what cannot work before anything is started.

    A new run that is refused leaves no trace: it may be started again with other settings.
    """
    url, written = config.dataset.source.url, 0
    if not url.startswith("file:///"):
        raise ConfigError(f"dataset.source.url {url!r} is not a local folder; the demo writes its source there")
    folder = Path(unquote(urlsplit(url).path))
    try:
        ObjectStore.open(config.store.url, endpoint=config.store.endpoint)
        with console.status("writing the flights as Parquet"):
            written = prepare_source(folder, rows)
        check_source(config)
    except ForeshardError:
        if new:
            (home / "settings.json").unlink()
            if written:
                shutil.rmtree(folder)
        raise
    if written:
        console.print(f"{written:,} flights written to {url}", highlight=False)


def check_source(config: ForeshardConfig) -> None:
    """Check that the source has the columns that the configuration and the model need, and rows enough for the memory.

    Raises:
        SourceError: it is empty or lacks a column.
        BudgetError: a node's memory for chunks cannot hold two chunks, however they are cut.
    """
    dataset, nodes = config.dataset, len(config.cluster.nodes)
    required = [dataset.target, *dataset.features, *([dataset.key] if dataset.key else []), *COLUMNS]
    rows = take_snapshot(dataset.source.url, endpoint=dataset.source.endpoint, required=required).rows
    held = rows * dataset.splits.train / nodes
    fraction, needed = config.loader.cache_fraction, 2 * config.reshard.min_chunk_rows
    if held * fraction < needed:
        enough = math.ceil(1000 * needed / held) / 1000
        raise BudgetError(
            f"loader.cache_fraction {fraction:g} of the {held:.0f} train rows that a node holds is a memory budget of "
            f"{held * fraction:.0f} rows, but two chunks of reshard.min_chunk_rows {needed // 2} need {needed}; raise "
            f"loader.cache_fraction to {enough:g} or more, or lower reshard.min_chunk_rows"
        )


def _train_rows(repository: Repository, layout: Any) -> int:  # noqa: ANN401
    manifest = repository.open(layout)
    return int(manifest.rows[manifest.splits == 0].sum())


def _clear(home: Path, config: ForeshardConfig, console: Console, *, fresh: bool) -> None:
    """Start anew after a finished run or on request: a new instance, new checkpoints and an empty dataset prefix."""
    finished = (home / "finished").exists()
    if not (fresh or finished):
        return
    # Killed half-way through this, the next run finds the mark and clears the rest.
    (home / "finished").touch()
    console.print("the last run has finished; starting anew" if finished else "starting anew")
    control_loop.stop_strays((home / "dagster").resolve())
    store = ObjectStore.open(config.store.url, endpoint=config.store.endpoint)
    store.delete([meta.key for meta in store.list(f"{config.dataset.name}/")])
    for name in ("dagster", "arms", "report", "source"):
        shutil.rmtree(home / name, ignore_errors=True)
    (home / "settings.json").unlink(missing_ok=True)
    (home / "finished").unlink(missing_ok=True)


def _keep_settings(home: Path, settings: dict[str, Any]) -> bool:
    """Refuse to resume under other settings: the two halves would not be one training run.

    Returns:
        Whether this is a new run.
    """
    path = home / "settings.json"
    if not path.exists():
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(settings), encoding="utf-8")
        partial.replace(path)
        return True
    before = json.loads(path.read_text("utf-8"))
    if changed := [name for name in settings if before.get(name) != settings[name]]:
        told = ", ".join(_difference(name, before.get(name), settings[name]) for name in changed)
        raise ConfigError(
            f"the unfinished run in {home} had {told}; use the same to resume it, or --fresh to start anew"
        )
    return False


def _difference(name: str, before: Any, now: Any) -> str:  # noqa: ANN401 - a setting's value
    return "another content of the configuration file" if name == "config" else f"--{name} {before}, not {now}"


@contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """Hold the folder's lock; the kernel drops it when this process dies."""
    with (home / control_loop.RUN_LOCK).open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"another `make run` is using {home}; wait for it or give another --home") from error
        if control_loop.is_locked(home / control_loop.UI_LOCK):
            raise ConfigError(
                f"`make ui` runs a Dagster daemon on {home}; stop it, then start it again while `make run` is running: "
                "it serves the pages alone then"
            )
        handle.write(str(os.getpid()))
        yield


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )


if __name__ == "__main__":
    typer.run(main)
