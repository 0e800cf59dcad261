"""Turning an order into what one reader touches in an epoch."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from foreshard.errors import ConfigError
from foreshard.loader.dealing import batch_sizes, deal, epoch_steps
from foreshard.loader.options import LoaderOptions
from foreshard.loader.order import Order, WeightedOrder
from foreshard.prefetch.schedule import Touches, find_touches, first_touches
from foreshard.shards.manifest import Manifest
from foreshard.splits import SPLITS

_EPOCHS_AHEAD: Final = 8


class ScheduleCache:
    """What was computed of an order and may be wanted again: a window is looked at from afar before it is read.

    Args:
        entries: numbers to keep, about; the least recently used go first.
    """

    def __init__(self, entries: int = 1 << 21) -> None:
        self._most, self._held = entries, 0
        self._found: OrderedDict[tuple[int, Hashable], NDArray[Any]] = OrderedDict()

    def get(self, epoch: int, key: Hashable, find: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Return what `find` returned for a key of an epoch, now or earlier; nobody may change it."""
        found = self._found.pop((epoch, key), None)
        if found is None:
            found = find()
            self._held += len(found)
        self._found[epoch, key] = found
        while self._held > self._most and len(self._found) > 1:
            self._held -= len(self._found.popitem(last=False)[1])
        return found

    def begin(self, epoch: int) -> None:
        """Forget the epochs before this one: they come again only if somebody goes back."""
        for key in [key for key in self._found if key[0] < epoch]:
            self._held -= len(self._found.pop(key))


class EpochSchedule:
    """What one reader touches in the steps of an epoch.

    Args:
        order: which samples, in which sequence.
        manifest: where they lie.
        options: batch size, dealing and place of the reader.
        split: code of the split that the order may draw from.
        epoch: the epoch, from 1.
        cache: what schedules of the same reader and layout share.
    """

    def __init__(
        self,
        order: Order,
        manifest: Manifest,
        options: LoaderOptions,
        *,
        split: int,
        epoch: int,
        cache: ScheduleCache | None = None,
    ) -> None:
        self._order, self._manifest, self._options = order, manifest, options
        self._cache = ScheduleCache() if cache is None else cache
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
        index = (step - numbers[0]) // self._options.place.workers if len(numbers) else step
        return find_touches(numbers, index, ids, position, manifest.chunk_of, manifest.row_of)

    def _samples(self, first: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return the reader's sample ids of some steps, with their steps and places in the global batch."""
        options, manifest, order = self._options, self._manifest, self._order
        batch, length, place = self.global_batch, order.length(self._epoch), options.place
        low, high = min(first * batch, length), min(stop * batch, length)
        ids = self._cache.get(self._epoch, ("ids", str(self.identity), low, high), lambda: self._ids(low, high))
        places = np.arange(low, high, dtype=np.int64)
        if options.remainder == "pad" and stop * batch > length:
            missing = stop * batch - length
            ids = np.concatenate([ids, np.resize(self._ids(0, min(missing, length)), missing)])
            places = np.arange(low, stop * batch, dtype=np.int64)
        step, position = places // batch, places % batch
        if place.world == place.workers == 1:
            return ids.copy(), step, position  # batches show them to whoever may change them
        owners = manifest.nodes[manifest.chunk_of[ids]] if options.dealing == "owner" else None
        sizes = batch_sizes(step, length, batch, options.remainder)
        mine = deal(position, owners, sizes, len(manifest.header.nodes), place)
        mine &= step % place.workers == place.worker
        return ids[mine], step[mine], position[mine]

    def _ids(self, low: int, high: int) -> NDArray[np.int64]:
        """Return ids of the order, checked: on every rank, whoever they are for."""
        ids = self._order.ids(self._epoch, low, high)
        _check_ids(ids, self._manifest, self._split, self._order.name)
        return ids

    def window_stop(self, step: int, window: int) -> int:
        """Return where the window of a step ends: the same for every loop, however far into the epoch it begins.

        The first two windows are shorter, so that the first batch does not wait for long.

        Args:
            step: the step.
            window: samples of a window, over all ranks, about.
        """
        sizes = [max(window // part // self.global_batch, 1) for part in (16, 4, 1)]
        stop = sizes[0]
        if step >= stop:
            stop += sizes[1]
        if step >= stop:
            stop += ((step - stop) // sizes[2] + 1) * sizes[2]
        return min(stop, self.steps)

    def uses_after(self, step: int, samples: int, window: int) -> list[NDArray[np.int32]]:
        """Return the chunks that the reader touches from a step on: by window, in each by first touch.

        It looks into later epochs where the order knows them. Draws by weights that may still change are looked at as
        they would be now: that is the best forecast there is, and only what stays in memory depends on it.

        Args:
            step: the step.
            samples: how many samples, over all ranks, to look at, at least.
            window: samples of a window.
        """
        found: list[NDArray[np.int32]] = []
        unseen = self._manifest.splits == self._split
        schedule = self
        for epoch in range(self._epoch, self._epoch + 1 + self._epochs_in_sight):
            if epoch > self._epoch:
                schedule = EpochSchedule(
                    self._order, self._manifest, self._options, split=self._split, epoch=epoch, cache=self._cache
                )
            try:
                while step < schedule.steps:
                    stop = schedule.window_stop(step, window)
                    found.append(schedule.first_uses(step, stop))
                    unseen[found[-1]] = False
                    samples, step = samples - (stop - step) * self.global_batch, stop
                    if samples <= 0 or not unseen.any():
                        return found
            except ConfigError:
                break  # a later epoch's error is raised when it begins
            step = 0
        return found

    def first_uses(self, first: int, stop: int) -> NDArray[np.int32]:
        """Return the chunks that the reader touches in the steps first..stop-1, by first touch."""

        def find() -> NDArray[np.int32]:
            ids, _, _ = self._samples(first, stop)
            return first_touches(self._manifest.chunk_of[ids], len(self._manifest))

        return self._cache.get(self._epoch, ("uses", str(self.identity), first, stop), find)

    @property
    def _epochs_in_sight(self) -> int:
        if isinstance(self._order, WeightedOrder):
            return _EPOCHS_AHEAD if self._order.replacement else 1  # each draw of a whole epoch takes its time
        return _EPOCHS_AHEAD if self._order.fixed else 0


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
