"""Ingestion: reads a window of epochs as their markers list them, validates everything, and names what is wrong.

Nothing is repaired, guessed or dropped in silence. A malformed object is quarantined: it is named in `problems` and
left out, while the valid objects beside it are kept. Whether a window with gaps may be used is the caller's decision;
`require_complete` is the strict one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.access.history import DrawCounter, History
from foreshard.access.markers import EpochMarker, read_marker
from foreshard.access.schema import EVENT_SCHEMA, KINDS, SAMPLE_SCHEMA, LogKind, LogObject, describe_steps
from foreshard.access.validate import read_log
from foreshard.errors import LogError, ObjectNotFoundError
from foreshard.keys import DatasetKeys
from foreshard.storage import ObjectStore

Take = Callable[[LogKind, pa.Table], None]
"""Receives the valid rows of one log object, by epoch and rank, events before samples."""


@dataclass(frozen=True)
class Problem:
    """Something wrong with a log.

    Attributes:
        key: the object it is about.
        what: what is wrong with it, and the fix.
        severity: `error` if events are lost or doubtful, `warning` if they are all there.
    """

    key: str
    what: str
    severity: Literal["error", "warning"]


@dataclass(frozen=True)
class Ingested:
    """The valid part of a window of epochs.

    Attributes:
        events: rows of `EVENT_SCHEMA`, by epoch and rank.
        samples: rows of `SAMPLE_SCHEMA`, by epoch and rank; ranks that drew the same sample have a row each.
        markers: the readable markers, by epoch.
        problems: everything that is wrong, by epoch.
    """

    events: pa.Table
    samples: pa.Table
    markers: tuple[EpochMarker, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class Streamed:
    """What is known of a window of epochs besides its rows.

    Attributes:
        markers: the readable markers, by epoch.
        problems: everything that is wrong, by epoch.
    """

    markers: tuple[EpochMarker, ...]
    problems: tuple[Problem, ...]


def ingest(store: ObjectStore, keys: DatasetKeys, run: str, epochs: range) -> Ingested:
    """Read and validate the logs of a window of epochs.

    Checked are: a marker for every epoch; for every object its key, size, SHA-256, schema, header, row count and
    values; every rank with both kinds; every step exactly once a rank; as many draws as the marker says.

    Args:
        store: where the run reports.
        keys: object names of the dataset.
        run: name of the training job.
        epochs: the epochs wanted, for generation `<run>.e<b>` `range(b - N + 1, b + 1)`.

    Returns:
        The valid rows and all problems, the same for the same objects, whatever order the store lists them in.

    Raises:
        StorageError: the store cannot be asked; that says nothing about the logs.
    """
    tables: dict[LogKind, list[pa.Table]] = {kind: [] for kind in KINDS}
    found = stream_logs(store, keys, run, epochs, lambda kind, table: tables[kind].append(table))
    events, samples = _concat(tables["events"], EVENT_SCHEMA), _concat(tables["samples"], SAMPLE_SCHEMA)
    return Ingested(events, samples, found.markers, found.problems)


def ingest_history(
    store: ObjectStore,
    keys: DatasetKeys,
    run: str,
    epochs: range,
    chunk_of: NDArray[np.int32],
    chunks: int,
    phases: int,
) -> tuple[History, Streamed]:
    """Count a window's draws per chunk and phase while its logs are read: no more than one object is held at a time.

    Args:
        store: where the run reports.
        keys: object names of the dataset.
        run: name of the training job.
        epochs: the epochs wanted.
        chunk_of: shape (n,), chunk of every sample in the layout of interest.
        chunks: chunks of that layout, C.
        phases: phases per epoch.

    Returns:
        What `chunk_history` makes of `ingest`'s samples, and what is known of them.

    Raises:
        LogError: a sample, phase or chunk outside the layout.
        StorageError: the store cannot be asked.
    """
    counter = DrawCounter(chunk_of, chunks, phases)

    def take(kind: LogKind, table: pa.Table) -> None:
        if kind == "samples":
            counter.add(table)

    found = stream_logs(store, keys, run, epochs, take)
    return counter.history(), found


def stream_logs(store: ObjectStore, keys: DatasetKeys, run: str, epochs: range, take: Take) -> Streamed:
    """Read and validate a window's logs as `ingest` does, and hand on each object's rows instead of keeping them.

    Args:
        store: where the run reports.
        keys: object names of the dataset.
        run: name of the training job.
        epochs: the epochs wanted.
        take: receives the rows that `ingest` would return, in the same order.

    Raises:
        StorageError: the store cannot be asked.
    """
    window = _Window(take)
    for epoch in epochs:
        try:
            marker = read_marker(store, keys, run, epoch)
        except ObjectNotFoundError:
            what = f"is not there: epoch {epoch} of run {run!r} is not finished; wait for it or choose other epochs"
            window.error(keys.marker(run, epoch), what)
        except LogError as error:
            window.error(keys.marker(run, epoch), str(error))
        else:
            window.markers.append(marker)
            _ingest_epoch(store, keys, marker, window)
    return Streamed(tuple(window.markers), tuple(window.problems))


def require_complete(ingested: Ingested) -> None:
    """Refuse a window in which anything is lost or doubtful; warnings pass.

    Raises:
        LogError: names the key of the first error, what is wrong with it, and the fix.
    """
    errors = [problem for problem in ingested.problems if problem.severity == "error"]
    if errors:
        more = f" ({len(errors) - 1} more problems)" if len(errors) > 1 else ""
        raise LogError(f"access log {errors[0].key!r} {errors[0].what}{more}")


@dataclass
class _Window:
    """What has been found so far."""

    take: Take
    markers: list[EpochMarker] = field(default_factory=list[EpochMarker])
    problems: list[Problem] = field(default_factory=list[Problem])

    def error(self, key: str, what: str) -> None:
        self.problems.append(Problem(key, what, "error"))


def _ingest_epoch(store: ObjectStore, keys: DatasetKeys, marker: EpochMarker, window: _Window) -> None:
    before = len(window.problems)
    covers: dict[tuple[LogKind, int], _Cover] = {}
    logs = sorted(marker.logs, key=lambda log: (log.rank, KINDS.index(log.kind), log.key))
    for (kind, rank), entries in groupby(logs, key=lambda log: (log.kind, log.rank)):
        covers[kind, rank] = _read_rank(store, keys, marker, list(entries), window)
    for kind in KINDS:
        for rank in range(marker.world_size):
            cover = covers.get((kind, rank), _Cover())
            window.problems.extend(cover.problems)
            if not cover.kept:
                what = (
                    f"has no valid {kind} log of rank {rank}; find out why that rank did not log, and leave the epoch "
                    "out"
                )
                window.error(keys.marker(marker.run, marker.epoch), what)
    if len(window.problems) == before:
        _check_draws(keys, marker, sum(cover.draws for cover in covers.values()), window)
    _warn_unlisted(store, keys, marker, window)


@dataclass
class _Cover:
    """What one rank's logs of a kind cover.

    Attributes:
        kept: whether any of them is valid.
        draws: samples drawn, as far as these logs tell.
        problems: steps that they cover twice or not at all.
    """

    kept: bool = False
    draws: int = 0
    problems: list[Problem] = field(default_factory=list[Problem])


def _read_rank(
    store: ObjectStore, keys: DatasetKeys, marker: EpochMarker, logs: Sequence[LogObject], window: _Window
) -> _Cover:
    """Hand on one rank's logs of a kind that cover each step at most once; those that cannot be read are reported."""
    cover, last = _Cover(), ""
    covered = np.zeros(0, bool)
    for log in logs:
        try:
            valid = read_log(store, keys, marker, log)
        except LogError as error:
            window.error(log.key, str(error))
            continue
        covered = covered if cover.kept else np.zeros(marker.steps, bool)
        again = valid.steps[covered[valid.steps]]
        if len(again):
            what = f"repeats steps {describe_steps(again)} of rank {log.rank}; list each step once"
            cover.problems.append(Problem(log.key, what, "error"))
            continue
        covered[valid.steps] = True
        cover.kept, last = True, log.key
        if log.kind == "samples":
            cover.draws += int(np.sum(valid.table.column("count").to_numpy()))
        window.take(log.kind, valid.table)
    missing = np.flatnonzero(~covered)
    if len(missing):
        what = f"lacks steps {describe_steps(missing)} of rank {logs[0].rank}, which nobody logged; leave the epoch out"
        cover.problems.append(Problem(last, what, "error"))
    return cover


def _check_draws(keys: DatasetKeys, marker: EpochMarker, drawn: int, window: _Window) -> None:
    """Only where nothing else is wrong: a lost object explains lost draws."""
    if drawn != marker.draws:
        what = f"says that {marker.draws} samples were drawn, its logs hold {drawn}; leave the epoch out of the window"
        window.error(keys.marker(marker.run, marker.epoch), what)


def _warn_unlisted(store: ObjectStore, keys: DatasetKeys, marker: EpochMarker, window: _Window) -> None:
    listed = {log.key for log in marker.logs}
    folder = keys.log(marker.run, marker.epoch, 0, "x", "events").rpartition("/")[0] + "/"
    what = "is not listed by its epoch's marker, so another attempt wrote it; it is ignored and may be deleted"
    window.problems.extend(Problem(m.key, what, "warning") for m in store.list(folder) if m.key not in listed)


def _concat(tables: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    return pa.concat_tables([schema.empty_table(), *tables]).unify_dictionaries().combine_chunks()
