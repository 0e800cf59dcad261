"""Imports Parquet: a row a request."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from foreshard.access.importers.collect import Collector
from foreshard.access.importers.columns import Role, choose_columns
from foreshard.access.importers.files import LogFile
from foreshard.access.importers.options import Options
from foreshard.access.importers.report import Quarantine
from foreshard.access.importers.row_checks import RowChecker, Rows
from foreshard.access.importers.values import Column, plain
from foreshard.errors import LogError

BATCH_ROWS: Final = 1 << 20
DAMAGED: Final = "row group damaged; its rows are lost"


def import_parquet(
    files: Sequence[LogFile], options: Options, collector: Collector, quarantine: Quarantine
) -> dict[str, str]:
    """Read Parquet files, in order.

    Returns:
        The names of the columns used, by role.

    Raises:
        LogError: a file cannot be opened, or has no column of objects.
    """
    checker = RowChecker(collector, quarantine, options.object_type)
    for log in files:
        try:
            file = pq.ParquetFile(log.path)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # names of columns are decoded
            raise LogError(f"log {str(log.path)!r} cannot be read as Parquet ({error}); give a whole file") from error
        with file:
            for rows in _read(file, log.name, options, quarantine):
                checker.check(log.name, rows)
    return checker.used


def _read(file: pq.ParquetFile, name: str, options: Options, quarantine: Quarantine) -> Iterator[Rows]:
    """Yield a file's rows; what whoever takes them raises is not seen here, and so not taken for damage."""
    names = file.schema_arrow.names
    wanted: dict[Role, str] = {role: names[place] for role, place in choose_columns(names, options, name).items()}
    for role, column in wanted.items():
        if names.count(column) > 1:
            what = f"log {name!r} has {names.count(column)} columns that are called {column!r}"
            raise LogError(f"{what}; give them different names, or name another one by {role}_column")
    row = 0
    for group in range(file.num_row_groups):
        end = row + file.metadata.row_group(group).num_rows
        batches = file.iter_batches(BATCH_ROWS, [group], columns=list(dict.fromkeys(wanted.values())))
        try:
            while (columns := _next(batches, wanted)) is not None:
                checked = _rows(columns, wanted, row)
                row += len(columns["object"])
                yield checked
        except (pa.ArrowException, OSError) as error:
            quarantine.drop(DAMAGED, name, f"rows {row}..{end - 1}", str(error), count=max(end - row, 1))
        row = end


def _next(batches: Iterator[Any], wanted: Mapping[Role, str]) -> dict[Role, Column] | None:
    batch = next(batches, None)
    return None if batch is None else {role: _decoded(batch.column(name)) for role, name in wanted.items()}


def _decoded(column: Column) -> Column:
    """Return a column without dictionary, whose indices may be damaged like anything else."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _rows(columns: dict[Role, Column], names: dict[Role, str], first: int) -> Rows:
    def value(row: int) -> dict[str, object]:
        return {role: _scalar(column, row) for role, column in columns.items()}

    return Rows(columns, names, lambda row: f"row {first + row}", value)


def _scalar(column: Column, row: int) -> object:
    one = plain(column.slice(row, 1))
    if pa.types.is_temporal(one.type):  # Python has no nanoseconds, no years beyond 9999, and may lack the time zone
        one = one.cast(pa.int32() if one.type.bit_width == 32 else pa.int64())  # noqa: PLR2004
    if pa.types.is_string(one.type):
        raw = one.cast(pa.binary())[0].as_py()  # it need not be UTF-8
        return None if raw is None else raw.decode("utf-8", "backslashreplace")
    return one[0].as_py()
