"""Checks of one log object against the marker that lists it: digest, format, header, rows. One check a function.

Every check raises `LogError` with what is wrong and the fix; the caller adds the object's key.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from foreshard.access.markers import EpochMarker
from foreshard.access.schema import SCHEMAS, LogHeader, LogObject, describe_steps, phase_of, steps_in
from foreshard.errors import LogError, ObjectNotFoundError
from foreshard.keys import DatasetKeys
from foreshard.storage import ObjectStore

_AGAIN: Final = "restore the object, or leave the epoch out of the window"
_BUG: Final = "it was not written by AccessLogWriter; leave the epoch out of the window"


@dataclass(frozen=True)
class ValidLog:
    """A log object that passed every check.

    Attributes:
        log: its entry in the marker.
        table: its rows, without metadata.
        steps: the steps it covers, ascending.
    """

    log: LogObject
    table: pa.Table
    steps: NDArray[np.int64]


def read_log(store: ObjectStore, keys: DatasetKeys, marker: EpochMarker, log: LogObject) -> ValidLog:
    """Fetch and check one log object.

    Args:
        store: where it lies.
        keys: object names of the dataset.
        marker: the epoch marker that lists it.
        log: its entry.

    Raises:
        LogError: it is missing, damaged, of the wrong format or contradicts its marker.
        StorageError: the store cannot be asked.
    """
    _check_key(keys, marker, log)
    try:
        raw = store.get(log.key)
    except ObjectNotFoundError as error:
        raise LogError(f"is missing from the store although its marker lists it; {_AGAIN}") from error
    _check_digest(log, raw)
    table = _parse(raw)
    _check_schema(log, table)
    if table.num_rows != log.rows:
        raise LogError(f"has {table.num_rows} rows, its marker says {log.rows}; {_BUG}")
    header = LogHeader.from_metadata(table.schema.metadata)
    _check_header(marker, log, header)
    table = table.replace_schema_metadata(None)
    steps = steps_in(header.recorded)
    if log.kind == "events":
        _check_events(marker, log, table, steps)
    else:
        _check_samples(marker, table)
    return ValidLog(log, table, steps)


def _check_key(keys: DatasetKeys, marker: EpochMarker, log: LogObject) -> None:
    """Never follow a marker out of its own epoch's folder."""
    if log.rank >= marker.world_size:
        raise LogError(f"is of rank {log.rank}, the epoch had {marker.world_size} ranks; {_BUG}")
    start = keys.log(marker.run, marker.epoch, log.rank, "x", log.kind).removesuffix("x.parquet")
    if not log.key.startswith(start) or "/" in log.key[len(start) :]:
        raise LogError(f"is no {log.kind} log of rank {log.rank}: its key should start with {start!r}; {_BUG}")


def _check_digest(log: LogObject, raw: bytes) -> None:
    if len(raw) != log.size:
        raise LogError(f"has {len(raw)} bytes, its marker says {log.size}: it was replaced or cut short; {_AGAIN}")
    digest = hashlib.sha256(raw).hexdigest()
    if digest != log.sha256:
        raise LogError(f"has the SHA-256 {digest}, its marker says {log.sha256}: it was altered; {_AGAIN}")


def _parse(raw: bytes) -> pa.Table:
    try:
        table = pq.ParquetFile(pa.BufferReader(raw)).read()
        table.validate(full=True)  # texts in UTF-8, and codes of texts that exist
    except (pa.ArrowException, OSError) as error:
        raise LogError(f"is not readable as Parquet ({error}); {_BUG}") from error
    return table


def _check_schema(log: LogObject, table: pa.Table) -> None:
    wanted = SCHEMAS[log.kind]
    if not table.schema.equals(wanted):
        found = {(field.name, str(field.type)) for field in table.schema}
        needed = {(field.name, str(field.type)) for field in wanted}
        raise LogError(
            f"has the wrong schema: lacks {sorted(needed - found)}, has instead {sorted(found - needed)}, or another "
            f"column order; {_BUG}"
        )
    nulls = [name for name in table.column_names if table.column(name).null_count]
    if nulls:
        raise LogError(f"has nulls in {', '.join(nulls)}; {_BUG}")


def _check_header(marker: EpochMarker, log: LogObject, header: LogHeader) -> None:
    wanted = {
        "kind": log.kind,
        "run": marker.run,
        "epoch": marker.epoch,
        "rank": log.rank,
        "generation": marker.generation,
        "steps": marker.steps,
        "phases": marker.phases,
    }
    for name, value in wanted.items():
        if getattr(header, name) != value:
            raise LogError(f"was written for {name} {getattr(header, name)!r}, its marker says {value!r}; {_BUG}")
    edges = [edge for recorded in header.recorded for edge in recorded]
    if edges and (edges != sorted(set(edges)) or edges[0] < 0 or edges[-1] > marker.steps):
        raise LogError(f"claims the steps {header.recorded} of an epoch of {marker.steps}; {_BUG}")


def _check_events(marker: EpochMarker, log: LogObject, table: pa.Table, steps: NDArray[np.int64]) -> None:
    wanted = {"run": marker.run, "generation": marker.generation, "epoch": marker.epoch, "rank": log.rank}
    for name, value in wanted.items():
        found = pc.unique(table.column(name)).to_pylist()
        if found not in ([], [value]):
            raise LogError(f"has rows of {name} {found}, its marker says {value!r}; {_BUG}")
    for name in ("chunk", "bytes", "wait_us", "fetch_us"):
        _check_at_least(table, name, 0)
    step = _column(table, "step")
    stray = np.setdiff1d(step, steps)
    if len(stray):
        raise LogError(f"has rows of steps {describe_steps(stray)}, which it does not claim to cover; {_BUG}")
    if (_column(table, "phase") != phase_of(step, marker.steps, marker.phases)).any():
        raise LogError(f"has phases that do not follow from {marker.phases} phases of {marker.steps} steps; {_BUG}")
    _check_unique(table, "step", "chunk")


def _check_samples(marker: EpochMarker, table: pa.Table) -> None:
    found = pc.unique(table.column("epoch")).to_pylist()
    if found not in ([], [marker.epoch]):
        raise LogError(f"has rows of epoch {found}, its marker says {marker.epoch}; {_BUG}")
    _check_at_least(table, "sample_id", 0)
    _check_at_least(table, "count", 1)
    phase = _column(table, "phase")
    if len(phase) and (phase.min() < 0 or phase.max() >= marker.phases):
        raise LogError(f"has phases {phase.min()}..{phase.max()}, the epoch has 0..{marker.phases - 1}; {_BUG}")
    _check_unique(table, "phase", "sample_id")


def _check_at_least(table: pa.Table, name: str, least: int) -> None:
    values = _column(table, name)
    if len(values) and values.min() < least:
        raise LogError(f"has the {name} {values.min()}, below {least}; {_BUG}")


def _check_unique(table: pa.Table, first: str, second: str) -> None:
    a, b = _column(table, first), _column(table, second)
    order = np.lexsort((b, a))
    a, b = a[order], b[order]
    twice = np.flatnonzero((np.diff(a) == 0) & (np.diff(b) == 0))
    if len(twice):
        raise LogError(
            f"has {len(twice)} duplicated rows, the first for {first} {a[twice[0]]}, {second} {b[twice[0]]}; {_BUG}"
        )


def _column(table: pa.Table, name: str) -> NDArray[np.int64]:
    return np.asarray(table.column(name).to_numpy(), np.int64)
