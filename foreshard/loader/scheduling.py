"""Turning an order into what one reader touches in an epoch."""

from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from foreshard.errors import ConfigError
from foreshard.loader.dealing import deal, epoch_steps
from foreshard.loader.options import LoaderOptions
from foreshard.loader.order import Order, WeightedOrder
from foreshard.prefetch.schedule import Touches, find_touches
from foreshard.shards.manifest import Manifest
from foreshard.splits import SPLITS

_EPOCHS_AHEAD: Final = 8


class EpochSchedule:
    """What one reader touches in the steps of an epoch.

    Args:
        order: which samples, in which sequence.
        manifest: where they lie.
        options: batch size, dealing and place of the reader.
        split: code of the split that the order may draw from.
        epoch: the epoch, from 1.
    """

    def __init__(self, order: Order, manifest: Manifest, options: LoaderOptions, *, split: int, epoch: int) -> None:
        self._order, self._manifest, self._options = order, manifest, options
        self._split, self._epoch = split, epoch
        self.global_batch = options.global_batch

    @property
    def identity(self) -> dict[str, Any]:
        """What the epoch's ids depend on."""
        return self._order.identity(self._epoch)

    @cached_property
    def steps(self) -> int:
        """Steps of the epoch, over all workers."""
        return epoch_steps(self._order.length(self._epoch), self.global_batch, self._options.remainder)

    def own_steps(self, first: int, stop: int) -> NDArray[np.int32]:
        """Return those of the steps first..stop-1 that are the reader's."""
        numbers = np.arange(first, stop, dtype=np.int32)
        return numbers[numbers % self._options.place.workers == self._options.place.worker]

    def touches(self, first: int, stop: int) -> Touches:
        """Return what the reader touches in the steps first..stop-1.

        Raises:
            ConfigError: the order gives an id that the dataset does not have, or one of another split.
        """
        ids, step, position = self._samples(first, stop)
        numbers, manifest = self.own_steps(first, stop), self._manifest
        index = np.searchsorted(numbers, step).astype(np.int64)
        return find_touches(numbers, index, ids, position, manifest.chunk_of, manifest.row_of)

    def _samples(self, first: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return the reader's sample ids of some steps, with their steps and places in the global batch."""
        options, manifest, order = self._options, self._manifest, self._order
        batch, length, place = self.global_batch, order.length(self._epoch), options.place
        low, high = min(first * batch, length), min(stop * batch, length)
        ids, places = order.ids(self._epoch, low, high), np.arange(low, high, dtype=np.int64)
        if options.remainder == "pad" and stop * batch > length:
            missing = stop * batch - length
            ids = np.concatenate([ids, np.resize(order.ids(self._epoch, 0, min(missing, length)), missing)])
            places = np.arange(low, stop * batch, dtype=np.int64)
        _check_ids(ids, manifest, self._split, order.name)
        step, position = places // batch, places % batch
        owners = manifest.nodes[manifest.chunk_of[ids]] if options.dealing == "owner" else None
        mine = deal(position, owners, batch, len(manifest.header.nodes), place)
        mine &= step % place.workers == place.worker
        return ids[mine], step[mine], position[mine]

    def first_uses(self, first: int, samples: int) -> NDArray[np.int32]:
        """Return the chunks that the reader touches from a step on, by first touch.

        It looks into later epochs where the order knows them. Draws by weights that may still change are looked at as
        they would be now: that is the best forecast there is, and only what stays in memory depends on it.

        Args:
            first: the first step.
            samples: how many samples, over all ranks, to look at; about as many as whole steps have.
        """
        batch, manifest = self.global_batch, self._manifest
        parts: list[NDArray[np.int32]] = []
        unseen = manifest.splits == self._split
        for epoch in range(self._epoch, self._epoch + 1 + self._epochs_in_sight):
            schedule = EpochSchedule(self._order, self._manifest, self._options, split=self._split, epoch=epoch)
            try:
                stop = min(schedule.steps, first + samples // batch)
                ids, _, _ = schedule._samples(first, stop)
            except ConfigError:
                break  # a later epoch's error is raised when it begins
            parts.append(manifest.chunk_of[ids])
            unseen[parts[-1]] = False
            samples, first = samples - (stop - first) * batch, 0
            if samples < batch or not unseen.any():
                break
        chunks, at = np.unique(np.concatenate(parts), return_index=True)
        return chunks[np.argsort(at)].astype(np.int32)

    @property
    def _epochs_in_sight(self) -> int:
        if isinstance(self._order, WeightedOrder):
            return _EPOCHS_AHEAD if self._order.replacement else 1  # each draw of a whole epoch takes its time
        return _EPOCHS_AHEAD if self._order.fixed else 0


def schedule_epoch(
    order: Order, manifest: Manifest, options: LoaderOptions, *, split: int, epoch: int, first: int
) -> Touches:
    """Return what one reader touches from a step of an epoch to the epoch's end; see `EpochSchedule`."""
    schedule = EpochSchedule(order, manifest, options, split=split, epoch=epoch)
    return schedule.touches(first, schedule.steps)


def _check_ids(ids: NDArray[np.int64], manifest: Manifest, split: int, order: str) -> None:
    unknown = ids[(ids < 0) | (ids >= manifest.header.rows)]
    if len(unknown):
        raise ConfigError(
            f"order {order!r} gives sample id {unknown[0]}, but layout {manifest.ref} has the ids "
            f"0..{manifest.header.rows - 1}; build the order from this dataset's splits"
        )
    splits = manifest.splits[manifest.chunk_of[ids]]
    foreign = splits != split
    if foreign.any():
        raise ConfigError(
            f"order {order!r} gives sample id {ids[foreign][0]} of the split {SPLITS[int(splits[foreign][0])]!r}, but "
            f"the loader reads {SPLITS[split]!r}; build the order from that split's ids or give Loader(split=...)"
        )
