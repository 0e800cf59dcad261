"""Ingestion: reads a window of epochs as their markers list them, validates everything, and names what is wrong.

Nothing is repaired, guessed or dropped in silence. A malformed object is quarantined: it is named in `problems` and
left out, while the valid objects beside it are kept. Whether a window with gaps may be used is the caller's decision;
`require_complete` is the strict one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa

from foreshard.access.markers import EpochMarker, read_marker
from foreshard.access.schema import EVENT_SCHEMA, KINDS, SAMPLE_SCHEMA, LogKind, describe_steps
from foreshard.access.validate import ValidLog, read_log
from foreshard.errors import LogError, ObjectNotFoundError
from foreshard.keys import DatasetKeys
from foreshard.storage import ObjectStore


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


@dataclass
class _Window:
    """What has been found so far."""

    tables: Mapping[LogKind, list[pa.Table]] = field(default_factory=lambda: {"events": [], "samples": []})
    markers: list[EpochMarker] = field(default_factory=list[EpochMarker])
    problems: list[Problem] = field(default_factory=list[Problem])

    def error(self, key: str, what: str) -> None:
        self.problems.append(Problem(key, what, "error"))


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
    window = _Window()
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
    return Ingested(
        _concat(window.tables["events"], EVENT_SCHEMA),
        _concat(window.tables["samples"], SAMPLE_SCHEMA),
        tuple(window.markers),
        tuple(window.problems),
    )


def require_complete(ingested: Ingested) -> None:
    """Refuse a window in which anything is lost or doubtful; warnings pass.

    Raises:
        LogError: names the key of the first error, what is wrong with it, and the fix.
    """
    errors = [problem for problem in ingested.problems if problem.severity == "error"]
    if errors:
        more = f" ({len(errors) - 1} more problems)" if len(errors) > 1 else ""
        raise LogError(f"access log {errors[0].key!r} {errors[0].what}{more}")


def _ingest_epoch(store: ObjectStore, keys: DatasetKeys, marker: EpochMarker, window: _Window) -> None:
    before = len(window.problems)
    valid: list[ValidLog] = []
    for log in sorted(marker.logs, key=lambda entry: (entry.rank, entry.key)):
        try:
            valid.append(read_log(store, keys, marker, log))
        except LogError as error:
            window.error(log.key, str(error))
    kept = [
        log
        for kind in KINDS
        for rank in range(marker.world_size)
        for log in _cover(keys, marker, (kind, rank), valid, window)
    ]
    for log in kept:
        window.tables[log.log.kind].append(log.table)
    if len(window.problems) == before:
        _check_draws(keys, marker, kept, window)
    _warn_unlisted(store, keys, marker, window)


def _cover(
    keys: DatasetKeys, marker: EpochMarker, who: tuple[LogKind, int], valid: Sequence[ValidLog], window: _Window
) -> list[ValidLog]:
    """Return one rank's logs of a kind that cover each step at most once, and report the steps nobody covers."""
    kind, rank = who
    covered = np.zeros(marker.steps, bool)
    kept: list[ValidLog] = []
    for log in valid:
        if (log.log.kind, log.log.rank) != who:
            continue
        again = log.steps[covered[log.steps]]
        if len(again):
            window.error(log.log.key, f"repeats steps {describe_steps(again)} of rank {rank}; list each step once")
            continue
        covered[log.steps] = True
        kept.append(log)
    missing = np.flatnonzero(~covered)
    if not kept:
        what = f"has no valid {kind} log of rank {rank}; find out why that rank did not log, and leave the epoch out"
        window.error(keys.marker(marker.run, marker.epoch), what)
    elif len(missing):
        what = f"lacks steps {describe_steps(missing)} of rank {rank}, which nobody logged; leave the epoch out"
        window.error(kept[-1].log.key, what)
    return kept


def _check_draws(keys: DatasetKeys, marker: EpochMarker, kept: Sequence[ValidLog], window: _Window) -> None:
    """Only where nothing else is wrong: a lost object explains lost draws."""
    drawn = sum(int(np.sum(log.table.column("count").to_numpy())) for log in kept if log.log.kind == "samples")
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
