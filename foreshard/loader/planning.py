"""Planning a loop over the loader, window by window: what is fetched when, and what stays in memory until when.

The order is known ahead, so Belady's MIN decides. An epoch may have billions of samples: it is planned in windows, the
next one while one is read, each with what follows it in sight.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.errors import ConfigError
from foreshard.loader.scheduling import EpochSchedule
from foreshard.prefetch.region import Region
from foreshard.prefetch.requests import Requests
from foreshard.prefetch.schedule import Touches
from foreshard.simulate.belady import Residency, plan_residency

WINDOW: Final = 1 << 18
"""Samples, over all ranks, that are planned together; about."""

_SIGHT: Final = 4
"""Windows' worth of samples beyond a window that are looked at."""

_FIRST_AHEAD: Final = 0.1
MOST_AHEAD: Final = 0.25
"""Share of the memory that is set aside for fetching ahead at most."""


@dataclass(frozen=True)
class Window:
    """Consecutive steps of a loop, planned together.

    Attributes:
        base: touches of the loop before it.
        touches: the steps' touches.
        keep: bool (m,), whether each touch's chunk stays resident after it.
        kept_at_start: chunks that stay resident from before the window.
        misses: int64 (k,), touches whose chunk must be fetched.
        ahead: bytes set aside for fetching ahead.
        min_hits: int64 (s,), hits of Belady's MIN in each step, with the whole budget and nothing set aside.
        min_bytes: int64 (s,), bytes that it fetches.
    """

    base: int
    touches: Touches
    keep: NDArray[np.bool_]
    kept_at_start: frozenset[int]
    misses: NDArray[np.int64]
    ahead: int
    min_hits: NDArray[np.int64]
    min_bytes: NDArray[np.int64]

    @property
    def needed(self) -> list[tuple[int, int]]:
        """The fetches: touch, counted from the loop's beginning, and chunk."""
        chunks = self.touches.chunks[self.misses]
        return list(zip((self.misses + self.base).tolist(), chunks.tolist(), strict=True))


@dataclass(frozen=True)
class Memory:
    """What chunks may fill.

    Attributes:
        region: the memory.
        nbytes: size of every chunk, shape (C,).
        requests: how chunks are fetched.
        beyond: int64 (C,), first use of every chunk as a forecast expects it, beyond all that is known.
    """

    region: Region
    nbytes: NDArray[np.int64]
    requests: Requests
    beyond: NDArray[np.int64]


class Planner:
    """Plans a loop's windows, one ahead of the one that is read. `close` it, or its thread may outlive the loop.

    Args:
        schedule: the epoch's.
        first: the loop's first step.
        memory: what chunks may fill.
        depth: factor on the room for fetching ahead.
        resident: chunks in memory or on their way.
        ideal: chunks in the memory of a MIN that has run beside the loader all the time; None if none has.
        window: samples to plan together, about.
    """

    def __init__(
        self,
        schedule: EpochSchedule,
        first: int,
        memory: Memory,
        *,
        depth: float,
        resident: frozenset[int],
        ideal: frozenset[int] | None = None,
        window: int,
    ) -> None:
        self._schedule, self._memory = schedule, memory
        self._depth, self._resident = depth, resident
        self.ideal = resident if ideal is None else ideal
        self._identity = schedule.identity
        self._next_step, self._base = first, 0
        self._window = window
        self._pool: ThreadPoolExecutor | None = None
        self._coming: Future[Window] | None = None

    def first(self) -> Window:
        """Return the loop's first window, planned in this thread."""
        return self._plan()

    def prepare(self, when_ready: Callable[[Window], None]) -> None:
        """Begin to plan the next window in a thread, if there is one.

        Args:
            when_ready: takes it once it is planned, in that thread.
        """
        if self._next_step < self._schedule.steps:
            self._pool = self._pool or ThreadPoolExecutor(1, "foreshard-plan")
            self._coming = self._pool.submit(self._plan, when_ready)

    def next(self, when_ready: Callable[[Window], None]) -> Window | None:
        """Return the window that was prepared, or None after the last, and prepare the one after it."""
        if self._coming is None:
            return None
        window, self._coming = self._coming.result(), None
        self.prepare(when_ready)
        return window

    def close(self) -> None:
        """End the thread, once the window that it may be planning is done."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _plan(self, when_ready: Callable[[Window], None] | None = None) -> Window:
        if self._schedule.identity != self._identity:
            raise ConfigError(
                f"the order changed in the middle of the epoch, before step {self._next_step}; change its weights "
                "between epochs"
            )
        first = self._next_step
        stop = self._schedule.window_stop(first, self._window)
        touches = self._schedule.touches(first, stop)
        later = self._later(stop, len(touches.chunks), _SIGHT * (stop - first) * self._schedule.global_batch)
        region = self._memory.region
        ahead = self._ahead(touches)
        plan = self._residency(touches, region.capacity - ahead, self._resident, later)
        burst = self._burst(plan, touches)
        if burst > ahead:
            ahead = burst
            plan = self._residency(touches, region.capacity - ahead, self._resident, later)
        self._memory.requests.bound(ahead, touches, self._memory.nbytes)
        ideal = self._residency(touches, region.budget, self.ideal, later)
        hits, moved = _per_step(ideal.hit, touches, self._memory.nbytes)
        window = Window(
            self._base, touches, plan.keep, plan.kept_at_start, np.flatnonzero(~plan.hit), ahead, hits, moved
        )
        self._resident, self.ideal = plan.kept_at_end, ideal.kept_at_end
        self._next_step, self._base = stop, self._base + len(touches.chunks)
        if when_ready is not None:
            when_ready(window)
        return window

    def _later(self, stop: int, touches: int, samples: int) -> NDArray[np.int64]:
        """Return when every chunk is used first from a step on, as far as that is known; by forecast beyond."""
        later = self._memory.beyond.copy()
        windows = self._schedule.uses_after(stop, samples, self._window)
        begins = touches + np.cumsum([0, *map(len, windows)])
        for uses, begin in reversed(list(zip(windows, begins[:-1].tolist(), strict=True))):  # nearer ones last
            later[uses] = begin + np.arange(len(uses))
        return later

    def _residency(
        self, touches: Touches, capacity: int, resident: frozenset[int], later: NDArray[np.int64]
    ) -> Residency:
        return plan_residency(touches.chunks, self._memory.nbytes, capacity, resident=resident, later=later)

    def _ahead(self, touches: Touches) -> int:
        """Return the bytes to set aside: room for the largest chunk at least, or its fetch could never be begun."""
        memory = self._memory
        capacity, largest = memory.region.capacity, memory.region.bypass
        first = min(memory.requests.room(touches, memory.nbytes), int(capacity * _FIRST_AHEAD))
        return min(max(min(int(first * self._depth), int(capacity * MOST_AHEAD)), largest), capacity)

    def _burst(self, plan: Residency, touches: Touches) -> int:
        """Return the bytes that the step with the most misses needs beyond an average one's.

        Where a shuffle's window begins, one batch may need a chunk for each of its samples, and many after it none:
        fetches go on without a pause only if there is room for what it needs while those before it are read.
        """
        _, missed = _per_step(plan.hit, touches, self._memory.nbytes)
        if not len(missed):
            return 0
        return int(min(missed.max() - float(missed.mean()), self._memory.region.capacity * MOST_AHEAD))


def _per_step(
    hit: NDArray[np.bool_], touches: Touches, nbytes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the hits, and the bytes of the misses, of every step."""
    moved = np.where(hit, 0, nbytes[touches.chunks])
    totals = [np.concatenate([[0], np.cumsum(each, dtype=np.int64)]) for each in (hit, moved)]
    hits, missed = (np.diff(total[touches.step_offsets]) for total in totals)
    return hits, missed
