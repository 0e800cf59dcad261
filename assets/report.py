"""From a stage's result to what Dagster shows: figures, small tables, small plots; and from its errors to failures."""

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import dagster as dg

if TYPE_CHECKING:
    from foreshard.chain.result import Scalar, StageResult

MAX_PLOT_BYTES: Final = 30_000
"""Inline plots live in the event log for ever; a larger one is left out and named."""

OBJECT_STORE_POOL: Final = "object_store"
SOLVER_POOL: Final = "solver"

TRANSIENT_ERRORS: Final = dg.RetryPolicy(
    max_retries=3, delay=2.0, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS
)
"""For steps that talk to the object store; errors that no retry can cure fail at once (see `run_stage`)."""


def run_stage(stage: "Callable[[], StageResult]") -> dg.MaterializeResult:
    """Run a stage and report what it wrote.

    Raises:
        dagster.Failure: the stage refused its input; the message names the value and the fix, and nothing is retried.
    """
    from foreshard.errors import (
        AccessDeniedError,
        ForeshardError,
        ObjectExistsError,
        ObjectNotFoundError,
        StorageError,
    )

    try:
        result = stage()
    except (AccessDeniedError, ObjectExistsError, ObjectNotFoundError) as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    except StorageError:
        raise
    except ForeshardError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    return dg.MaterializeResult(metadata=to_metadata(result), data_version=dg.DataVersion(result.data_version))


def to_metadata(result: "StageResult") -> dict[str, dg.MetadataValue]:
    """Return a stage's figures, tables and plots as Dagster metadata."""
    return {
        **{name: _figure(value) for name, value in result.metadata.items() if value is not None},
        **{name: _table(rows) for name, rows in result.tables.items() if rows},
        **{f"plot_{name}": _plot(name, raw) for name, raw in result.plots.items()},
    }


def _figure(value: "Scalar") -> dg.MetadataValue:
    if isinstance(value, bool):
        return dg.MetadataValue.bool(value)
    if isinstance(value, int):
        return dg.MetadataValue.int(value)
    if isinstance(value, float) and math.isfinite(value):
        return dg.MetadataValue.float(value)
    return dg.MetadataValue.text(str(value))


def _table(rows: "Sequence[Mapping[str, Scalar]]") -> dg.MetadataValue:
    from foreshard.chain.result import MAX_TABLE_ROWS

    names = list(dict.fromkeys(name for row in rows for name in row))
    records = [dg.TableRecord({name: _cell(row.get(name)) for name in names}) for row in rows[:MAX_TABLE_ROWS]]
    columns = [dg.TableColumn(name, _column_type([record.data[name] for record in records])) for name in names]
    return dg.MetadataValue.table(records, schema=dg.TableSchema(columns))


def _cell(value: "Scalar") -> str | int | float | bool:
    if value is None:
        return ""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float) else str(value)


def _column_type(values: Sequence[str | int | float | bool]) -> str:
    kinds = {type(value) for value in values}
    if kinds <= {bool}:
        return "bool"
    if kinds <= {int}:
        return "int"
    return "float" if kinds <= {int, float} else "string"


def _plot(name: str, raw: bytes) -> dg.MetadataValue:
    if len(raw) > MAX_PLOT_BYTES:
        return dg.MetadataValue.md(f"{name}: left out, {len(raw)} bytes are more than {MAX_PLOT_BYTES}")
    return dg.MetadataValue.md(f"![{name}](data:image/png;base64,{base64.b64encode(raw).decode()})")
