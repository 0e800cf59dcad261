"""Which epochs a generation consumes, and which boundary is due: pure functions of keys and epoch numbers."""

import re
from collections.abc import Iterable
from typing import Final

from foreshard.access.markers import read_marker
from foreshard.errors import ConfigError, ObjectNotFoundError
from foreshard.keys import DatasetKeys, parse_generation_key
from foreshard.storage import ObjectStore

NEVER: Final = -1
"""The last boundary of a run for which nothing was requested yet."""

_MARKER: Final = re.compile(r"e(?P<epoch>[0-9]{6,})\.json")


def window(generation: str, every: int) -> range:
    """Return the epochs whose logs a generation is planned from: (boundary - every, boundary], from epoch 1 on.

    Raises:
        ConfigError: the key is malformed, or its epoch is not divisible by `every`.
    """
    _, boundary = parse_generation_key(generation)
    if boundary % every:
        raise ConfigError(
            f"generation {generation!r} is not at a boundary: its epoch {boundary} is not divisible by "
            f"reshard.every = {every}"
        )
    return range(max(1, boundary - every + 1), boundary + 1)


def due_boundary(epochs: Iterable[int], every: int, fired: int = NEVER, *, planned: int | None = None) -> int | None:
    """Return the boundary to act on now, or None.

    The newest marker decides, so a marker that comes late or never neither stalls nor skips a boundary; after a
    pause only the latest boundary is due.

    Args:
        epochs: finished epochs reported so far, in any order.
        every: a boundary is an epoch divisible by this.
        fired: the last boundary acted on, `NEVER` if there is none.
        planned: epochs the run will train, where it said so: a layout from then on would have no reader.
    """
    top = max(epochs, default=None)
    if top is None:
        return None
    due = top // every * every
    if planned is not None and due >= planned:
        return None
    return due if due > fired else None


def planned_epochs(store: ObjectStore, keys: DatasetKeys, run: str) -> int | None:
    """Return how many epochs a run said it will train when it registered (`info={"epochs": …}`), or None."""
    try:
        info = read_marker(store, keys, run, 0).info
    except ObjectNotFoundError:  # a run that only ever wrote markers of finished epochs
        return None
    epochs = info.get("epochs")
    return epochs if isinstance(epochs, int) else None


def marker_epochs(store: ObjectStore, keys: DatasetKeys, run: str, *, after: int = NEVER) -> list[int]:
    """Return the epochs that `run` has marked as finished, those later than `after` only, ascending.

    Only names are listed, no marker is read: this is what a poll every few seconds can afford.
    """
    prefix = keys.markers(run)
    start = keys.marker(run, after) if after > NEVER else None
    names = (meta.key.removeprefix(prefix) for meta in store.list(prefix, after=start))
    matches = (_MARKER.fullmatch(name) for name in names)
    return sorted(epoch for match in matches if match and (epoch := int(match["epoch"])) > after)
