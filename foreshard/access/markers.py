"""Epoch markers: the create-only objects by which a training job says that an epoch's logs are durable.

A marker lists exactly the log objects of one attempt, with their digests. Objects of other attempts (after a crash)
are in the store too, but no marker names them, so nobody reads them.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, cast

from foreshard.access.schema import FORMAT, KINDS, LogObject
from foreshard.errors import LogError, ObjectExistsError
from foreshard.keys import DatasetKeys, check_name
from foreshard.storage import ObjectStore

_MARKER_NAME: Final = re.compile(r"e([0-9]{6,})\.json")

_TEXTS: Final = ("run", "generation", "plan_digest", "write_id")
_INT64: Final = 2**63 - 1
_LARGEST: Final = {"epoch": 2**31 - 1, "steps": 2**31 - 1, "phases": 2**15 - 1, "world_size": 2**15, "rank": 2**15 - 1}
"""What a writer can log at most: a damaged number must not make a reader wait for a billion ranks."""

_NUMBERS: Final = ("epoch", "world_size", "steps", "phases", "draws")


def _no_info() -> Mapping[str, str | int]:
    return {}


@dataclass(frozen=True)
class EpochMarker:
    """One finished epoch of a run; epoch 0 registers the run and has no logs.

    Attributes:
        run: the training job.
        epoch: finished epochs, so the number of the epoch whose logs these are.
        generation: the layout generation that was read.
        plan_digest: digest of that layout's plan.
        world_size: ranks that trained; each wrote one object of every kind.
        steps: optimizer steps of the epoch.
        phases: equal parts of the epoch.
        write_id: names the attempt.
        logs: the objects, nothing but them.
        draws: samples drawn in the epoch over all ranks.
        info: what the run said of itself when it registered.
    """

    run: str
    epoch: int
    generation: str
    plan_digest: str
    world_size: int
    steps: int
    phases: int
    write_id: str
    logs: tuple[LogObject, ...]
    draws: int
    info: Mapping[str, str | int] = field(default_factory=_no_info)

    def to_json(self) -> str:
        """Return the marker as JSON text; equal markers give equal text."""
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> "EpochMarker":
        """Rebuild a marker from `to_json`'s output.

        Raises:
            LogError: it is not JSON, not of this format, or lacks a field.
        """
        try:
            raw = cast("dict[str, Any]", json.loads(text))
            if raw["format"] != FORMAT:
                raise LogError(f"marker is of format {raw['format']!r}, this foreshard reads format {FORMAT}")
            logs = tuple(_log_object(entry) for entry in raw["logs"])
            texts = {name: _typed(raw, name, str) for name in _TEXTS}
            numbers = {name: _typed(raw, name, int) for name in _NUMBERS}
            return cls(**texts, **numbers, logs=logs, info=dict(raw["info"]))
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise LogError(f"marker cannot be read: {error!r}") from error


def _typed(raw: Mapping[str, Any], name: str, kind: type) -> Any:  # noqa: ANN401 -- the type is the argument's
    value = raw[name]
    if type(value) is not kind or (kind is int and not 0 <= value <= _LARGEST.get(name, _INT64)):
        raise ValueError(f"{name} is {value!r}")
    return value


def _log_object(raw: Mapping[str, Any]) -> LogObject:
    if raw["kind"] not in KINDS:
        raise ValueError(f"log kind is {raw['kind']!r}")
    numbers = {name: _typed(raw, name, int) for name in ("rank", "size", "rows")}
    return LogObject(key=_typed(raw, "key", str), kind=raw["kind"], sha256=_typed(raw, "sha256", str), **numbers)


def register_run(store: ObjectStore, keys: DatasetKeys, run: str, *, info: Mapping[str, str | int]) -> EpochMarker:
    """Announce a run by the create-only marker of epoch 0.

    Args:
        store: where the run reports.
        keys: object names of the dataset.
        run: name of the training job.
        info: what is worth knowing of it (host, model, seed, ...).

    Returns:
        The marker that stands: this one, or the first one if the run was registered before.

    Raises:
        ConfigError: the run's name may not stand in a key.
    """
    marker = EpochMarker(check_name(run, "run"), 0, "", "", 0, 0, 0, "register", (), 0, dict(info))
    return write_marker(store, keys, marker)


def write_marker(store: ObjectStore, keys: DatasetKeys, marker: EpochMarker) -> EpochMarker:
    """Write a marker unless that epoch was marked before.

    A put whose response was lost meets its own bytes when it is retried and counts as done.

    Returns:
        The marker that stands. Compare its `write_id` with yours: another one means that an earlier attempt finished
        this epoch, and its logs, not yours, will be used.

    Raises:
        LogError: the marker that stands cannot be read.
    """
    key = keys.marker(marker.run, marker.epoch)
    try:
        store.create(key, marker.to_json().encode())
    except ObjectExistsError:
        return read_marker(store, keys, marker.run, marker.epoch)
    return marker


def read_marker(store: ObjectStore, keys: DatasetKeys, run: str, epoch: int) -> EpochMarker:
    """Return the marker of an epoch.

    Raises:
        ObjectNotFoundError: the epoch is not marked.
        LogError: the marker cannot be read, or is another epoch's or run's.
    """
    key = keys.marker(run, epoch)
    raw = store.get(key)
    try:
        marker = EpochMarker.from_json(raw)
    except LogError as error:
        raise LogError(f"epoch marker {key!r} is damaged: {error}; delete it and train epoch {epoch} again") from error
    if (marker.run, marker.epoch) != (run, epoch):
        raise LogError(
            f"epoch marker {key!r} belongs to run {marker.run!r}, epoch {marker.epoch}; delete it and train epoch "
            f"{epoch} of {run!r} again"
        )
    return marker


def list_markers(store: ObjectStore, keys: DatasetKeys, run: str, *, after: int = -1) -> list[EpochMarker]:
    """Return a run's markers of the epochs above `after`, in epoch order; objects of other names are passed over.

    Raises:
        LogError: one of them cannot be read.
    """
    prefix = keys.markers(run)
    names = (_MARKER_NAME.fullmatch(meta.key.removeprefix(prefix)) for meta in store.list(prefix))
    epochs = sorted(int(name[1]) for name in names if name is not None)
    return [read_marker(store, keys, run, epoch) for epoch in epochs if epoch > after]


def list_runs(store: ObjectStore, keys: DatasetKeys) -> list[str]:
    """Return the names of the runs that left at least one marker, sorted."""
    return [run for run in store.folders(keys.runs) if _has_marker(store, keys.markers(run))]


def _has_marker(store: ObjectStore, prefix: str) -> bool:
    return any(_MARKER_NAME.fullmatch(meta.key.removeprefix(prefix)) for meta in store.list(prefix))
