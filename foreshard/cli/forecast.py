"""`foreshard forecast`: what any log of accesses tells of the next ones."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Final

import typer
from typer.models import OptionInfo

from foreshard.cli.output import console, errors_told, print_json, stages
from foreshard.cli.place import JsonOption
from foreshard.cli.sections import show_sections
from foreshard.errors import ConfigError, LogError

if TYPE_CHECKING:
    from foreshard.forecast.study import Study

_LOG: Final = "The log"
_OUTPUT: Final = "Output"
_STEPS: Final = 5
"""Reading, and what `study_log` does."""


def _column(name: str, what: str) -> OptionInfo:
    told = f"CSV and Parquet: column of the {what}; told by its name if left out."
    return typer.Option(f"--{name}-column", help=told, rich_help_panel=_LOG)


def forecast(  # noqa: PLR0913 - a command's options
    log: Annotated[
        Path,
        typer.Argument(
            help="A file, or a folder of files of one format: DFTracer, CSV, Parquet, oracleGeneral or LIS; all but "
            "Parquet may be packed by gzip or zstd.",
            show_default=False,
        ),
    ],
    *,
    format: Annotated[  # noqa: A002 - the word of the command line
        str | None,
        typer.Option(
            "--format",
            help="dftracer, csv, parquet, oraclegeneral or lis; told by its name if left out.",
            rich_help_panel=_LOG,
        ),
    ] = None,
    windows: Annotated[
        int | None,
        typer.Option(
            "--windows",
            min=1,
            help="Cut it into so many windows of equal numbers of requests; if left out, its epochs are the windows, "
            "or there are 24 where it knows none.",
            rich_help_panel=_LOG,
        ),
    ] = None,
    phases: Annotated[
        int,
        typer.Option("--phases", min=1, help="Cut its epochs into so many windows each.", rich_help_panel=_LOG),
    ] = 1,
    object_column: Annotated[str | None, _column("object", "object")] = None,
    time_column: Annotated[str | None, _column("time", "time")] = None,
    epoch_column: Annotated[str | None, _column("epoch", "epoch")] = None,
    size_column: Annotated[str | None, _column("size", "object's bytes")] = None,
    object_type: Annotated[
        str | None,
        typer.Option(
            "--object-type",
            help="CSV and Parquet: objects are int, text, or auto: integers if all of them are. [default: auto]",
            rich_help_panel=_LOG,
        ),
    ] = None,
    header: Annotated[
        bool | None,
        typer.Option(
            "--header/--no-header",
            help="CSV: its first line names the columns, or they are 0, 1, ...; told by that line if left out.",
            rich_help_panel=_LOG,
        ),
    ] = None,
    extent: Annotated[
        int | None,
        typer.Option(
            "--extent", min=1, help="LIS: pages of 512 bytes that make one object. [default: 1]", rich_help_panel=_LOG
        ),
    ] = None,
    requests: Annotated[
        str | None,
        typer.Option(
            "--requests",
            help="DFTracer: what is a request: samples, reads, or auto: samples if there are any. [default: auto]",
            rich_help_panel=_LOG,
        ),
    ] = None,
    cache_fraction: Annotated[
        float, typer.Option("--cache-fraction", help="Share of the objects that fits into the cache, in (0, 1].")
    ] = 0.1,
    models: Annotated[
        str | None, typer.Option("--models", help="Forecasters to choose from, like last,ewma,ensemble.")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="List so many objects.", rich_help_panel=_OUTPUT)] = 20,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write everything into this new folder.", rich_help_panel=_OUTPUT),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an older output in --out.", rich_help_panel=_OUTPUT)
    ] = False,
    plots: Annotated[
        bool, typer.Option("--plots/--no-plots", help="Draw plots for --out.", rich_help_panel=_OUTPUT)
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Forecast what the readers of a log will ask for next, and say what a cache should keep.

    The log may be of anything that is read again and again: chunks, files, pages, products. It is cut into windows;
    every forecaster predicts the newest ones from those before and is scored beside baselines; the chosen one then
    ranks all objects. Where there is nothing to predict, as in shuffled epochs, it says so.

    With --out it writes ranked.parquet, pins.parquet (what to pin, if anything), scores.parquet, policy.json,
    import.json, quarantine.jsonl (records of the log that were left out), plots, and report.html, which shows all of
    it and needs no other file.
    """
    given = {"object": object_column, "time": time_column, "epoch": epoch_column, "size": size_column}
    named: dict[str, object] = {f"{name}_column": column for name, column in given.items()}
    named |= {"object_type": object_type, "header": header, "extent": extent, "requests": requests}
    options = {name: value for name, value in named.items() if value is not None}
    asked = _Asked(log, format, windows, phases, options, cache_fraction, models, top)
    with errors_told():
        asked.check()
        study = _run(asked, _Target(out, replace=force, plots=plots))
        if as_json:
            from foreshard.forecast.outputs import study_json

            print_json({**study_json(study, top), "out": str(out) if out is not None else None})
            return
        from foreshard.forecast.report import study_sections

        show_sections(study_sections(study, top))
        if out is not None:
            console().print(f"\nwritten to {out}: open {out / 'report.html'}", soft_wrap=True)


@dataclass(frozen=True)
class _Target:
    """Where output goes, if anywhere."""

    folder: Path | None
    replace: bool
    plots: bool


@dataclass(frozen=True)
class _Asked:
    """The command's question."""

    log: Path
    format: str | None
    windows: int | None
    phases: int
    options: dict[str, object]
    cache_fraction: float
    models: str | None
    top: int

    def names(self) -> tuple[str, ...] | None:
        """Return the forecasters to choose from; None for those that suit the log."""
        if self.models is None:
            return None
        return tuple(name.strip() for name in self.models.split(",") if name.strip())

    def check(self) -> None:
        """Refuse what cannot be answered before a long log is read.

        Raises:
            ConfigError: the cache fraction or a forecaster's name is not usable.
            LogError: there is no log.
        """
        from foreshard.forecast.registry import make_forecasters

        if not 0 < self.cache_fraction <= 1:
            raise ConfigError(f"--cache-fraction {self.cache_fraction} must be above 0 and at most 1; a tenth is 0.1")
        names = self.names()
        if names is not None:
            make_forecasters(names)
        if not self.log.exists():
            raise LogError(f"there is no log {str(self.log)!r}; name a file, or a folder of files of one format")

    def study(self, quarantine: Path, begin: Callable[[str], None]) -> "Study":
        """Read the log and answer."""
        from foreshard.access.importers import import_trace
        from foreshard.forecast.study import study_log

        begin(f"reading {self.log.name}")
        imported = import_trace(
            self.log,
            format=self.format,
            windows=self.windows,
            phases=self.phases,
            quarantine=quarantine,
            **self.options,
        )
        return study_log(imported, cache_fraction=self.cache_fraction, names=self.names(), told=begin)


def _run(asked: _Asked, target: _Target) -> "Study":
    """Answer, and write the answer where it is to go."""
    from foreshard.folders import check_folder, write_folder
    from foreshard.forecast.outputs import FILES, study_files

    if target.folder is not None:
        check_folder(target.folder, FILES, replace=target.replace)
    steps = _STEPS + (target.folder is not None)
    with TemporaryDirectory(prefix="foreshard-forecast-") as place, stages(steps) as begin:
        quarantine = Path(place) / "quarantine"
        study = asked.study(quarantine, begin)
        if target.folder is not None:
            begin("drawing and writing")
            files = study_files(study, asked.log, quarantine, top=asked.top, plots=target.plots)
            write_folder(target.folder, files, FILES, replace=target.replace)
    return study
