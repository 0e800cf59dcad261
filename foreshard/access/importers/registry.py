"""Which formats there are, how a log's format is told by its name, and the import itself."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from foreshard.access.importers.collect import Collector
from foreshard.access.importers.csv_rows import import_csv
from foreshard.access.importers.dftracer import ENDINGS as DFTRACER_ENDINGS
from foreshard.access.importers.dftracer import import_dftracer
from foreshard.access.importers.files import LogFile
from foreshard.access.importers.folder import Found, find_files
from foreshard.access.importers.lis import import_lis
from foreshard.access.importers.options import COLUMN_OPTIONS, Options
from foreshard.access.importers.oracle import import_oracle
from foreshard.access.importers.parquet_rows import import_parquet
from foreshard.access.importers.report import Example, Quarantine, Report, open_quarantine
from foreshard.access.importers.row_checks import MixedObjects
from foreshard.access.trace import Trace
from foreshard.errors import ConfigError

Importer = Callable[[Sequence[LogFile], Options, Collector, Quarantine], dict[str, str]]
"""Reads files, and returns the names of the columns it used, by role, where the format names any."""


@dataclass(frozen=True)
class Imported:
    """An imported log.

    Attributes:
        trace: its valid requests.
        report: what was read, and what was left out and why.
    """

    trace: Trace
    report: Report


@dataclass(frozen=True)
class _Format:
    run: Importer
    endings: tuple[str, ...]
    options: frozenset[str]


FORMATS: Final[dict[str, _Format]] = {
    "dftracer": _Format(import_dftracer, DFTRACER_ENDINGS, frozenset({"requests"})),
    "csv": _Format(import_csv, (".csv", ".tsv", ".txt"), COLUMN_OPTIONS | {"header"}),
    "parquet": _Format(import_parquet, (".parquet", ".pq"), COLUMN_OPTIONS),
    "oraclegeneral": _Format(import_oracle, (".oraclegeneral", ".oraclegeneral.bin"), frozenset()),
    "lis": _Format(import_lis, (".lis",), frozenset({"extent"})),
}
"""The formats by name: their importers, and the endings of file names they are recognised by."""

MIXED: Final = "object no integer, so all objects are taken as texts"


def import_trace(
    path: str | Path,
    *,
    format: str | None = None,  # noqa: A002 -- the word of the command line
    windows: int | None = None,
    phases: int = 1,
    quarantine: str | Path | None = None,
    **options: Any,  # noqa: ANN401 -- the fields of `Options`
) -> Imported:
    """Read a log of another system as a trace.

    Args:
        path: a file, compressed by gzip or zstd or not, or a folder of files of one format, which are read in natural
            order of their names, with those in the folders in it. Other files there are reported.
        format: one of `FORMATS`; told by the name if left out.
        windows: cut the log in that many windows of equal numbers of requests. If left out, its epochs are the
            windows, or there are 24 if it knows no epochs.
        phases: windows of equal numbers of requests in each epoch, where epochs are used.
        quarantine: file for every record that is left out, as lines of JSON; overwritten.
        options: fields of `Options` that the format knows.

    Returns:
        The trace, with objects numbered by first appearance in the log, and the report. The same for the same files.

    Raises:
        ConfigError: an unknown format or option, or numbers of windows or phases below 1.
        LogError: the log cannot be read at all or holds no valid request; anything less is in the report.
    """
    place = Path(path)
    if phases < 1 or (windows is not None and windows < 1):
        raise ConfigError(f"{windows} windows, {phases} phases cannot be; give at least 1")
    endings = {name: known.endings for name, known in FORMATS.items()}
    found = find_files(place, None if format is None else format.lower(), endings)
    chosen = _options(found.format, options)
    aside = None if quarantine is None else Path(quarantine)
    try:
        return _import(found, chosen, windows, phases, aside, None)
    except MixedObjects as mixed:  # numbers were read as such until then, and may have lost their spelling
        return _import(found, replace(chosen, object_type="text"), windows, phases, aside, mixed.example)


def _import(
    log: Found, options: Options, windows: int | None, phases: int, quarantine: Path | None, mixed: Example | None
) -> Imported:
    with ExitStack() as stack:
        found = stack.enter_context(open_quarantine(quarantine))
        log.tell(found)
        if mixed is not None:
            found.note(MIXED, mixed.file, mixed.where, mixed.value)
        collector = Collector(stack, found)
        columns = FORMATS[log.format].run(log.files, options, collector, found)
        trace = collector.trace(windows, phases)
        names = tuple(file.name for file in log.files)
        report = Report(log.format, names, len(trace.objects), found.findings(), columns)
    return Imported(trace, report)


def _options(name: str, given: dict[str, Any]) -> Options:
    try:
        chosen = Options(**given)
    except TypeError as error:
        raise ConfigError(f"unknown option in {', '.join(given)}; those of {name!r} are {_known(name)}") from error
    chosen.only(name, FORMATS[name].options)
    return chosen


def _known(name: str) -> str:
    return ", ".join(sorted(FORMATS[name].options)) or "none"
