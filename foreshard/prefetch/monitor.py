"""What a loader achieves, per epoch and over its last batches.

Three figures that are never mixed: residency hit rate, ready rate, accuracy.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from threading import Lock
from typing import Final

from foreshard.prefetch.rolling import CAUSES, WINDOW, BatchFigures, Cause, Rolling, RollingWindow

__all__ = [
    "CAUSES",
    "BatchFigures",
    "Cause",
    "EpochStats",
    "Monitor",
    "MonitorSnapshot",
    "Running",
    "Totals",
]

_EPOCHS: Final = 1000
"""Epochs whose figures are kept; older ones are only counted."""


@dataclass(frozen=True)
class EpochStats:
    """Counters of one epoch of one or more loaders; counters of several loaders add up.

    Attributes:
        epoch: the epoch, from 1.
        steps: batches delivered.
        samples: samples delivered.
        ready_steps: batches that `next()` did not wait for.
        plan_s: seconds that planning took, before the first batch.
        wait_s: seconds `next()` waited for batches, planning not included; the four below add up to it.
        wait_fetch_s: of those, seconds during which a chunk was on its way from the object store.
        wait_decode_s: seconds during which a batch was gathered, decoded or transformed.
        wait_throttle_s: seconds during which the store had asked for fewer requests. A `Loader` leaves it 0: obstore
            repeats a request that was answered 503 or 429 by itself and does not tell, so the time counts as fetch.
        wait_queue_s: seconds during which the batch had no turn: the threads that make batches waited for a core, or
            for the plan of what follows.
        loop_s: seconds between batches that the training loop did not wait: its own steps.
        touches: uses of a chunk by a step.
        hits: touches whose chunk was in memory from an earlier use or a forecast, without a fetch for this touch.
        min_hits: hits of Belady's MIN on the same touches with the whole budget, or the loader's own where they are
            more: for chunks of unequal size MIN's rule is not the optimum, and an optimum is what it stands for.
        min_bytes: bytes that MIN would have fetched on the same touches with the same budget, or the loader's own where
            they are fewer; 0 where that was not worked out.
        origin_bytes: bytes fetched into memory, from the object store or the disk tier.
        origin_requests: fetches from the object store or the disk tier.
        demand_requests: fetches made on demand, since no prefetch had begun.
        failed_requests: fetches that failed; the chunks of those ahead were read on demand when they were needed.
        prefetched_bytes: bytes fetched ahead, without those still in memory and unused: they count in a later epoch.
        prefetched_used_bytes: of those, bytes that a touch used.
        forecast_bytes: of the prefetched bytes, those that the prefetch manifest suggested before the order was known.
        forecast_used_bytes: of those, bytes that a touch used.
        peak_bytes: highest fill of the memory region.
        disk_hits: chunks read from the disk tier instead of the object store; 0 without one, as all that follow.
        disk_bytes: their bytes.
        disk_written: chunks written there, for other processes and later epochs.
        disk_awaited: chunks that another process or thread was fetching, so that this loader waited for it.
        disk_evicted: chunks removed there to make room.
        disk_damaged: chunks there that were missing, short or wrong, and were fetched again.
        disk_troubles: times the tier failed: a full disk, a lock that was held for too long, a chunk that did not come.
    """

    epoch: int
    steps: int = 0
    samples: int = 0
    ready_steps: int = 0
    plan_s: float = 0.0
    wait_s: float = 0.0
    wait_fetch_s: float = 0.0
    wait_decode_s: float = 0.0
    wait_throttle_s: float = 0.0
    wait_queue_s: float = 0.0
    loop_s: float = 0.0
    touches: int = 0
    hits: int = 0
    min_hits: int = 0
    min_bytes: int = 0
    origin_bytes: int = 0
    origin_requests: int = 0
    demand_requests: int = 0
    failed_requests: int = 0
    prefetched_bytes: int = 0
    prefetched_used_bytes: int = 0
    forecast_bytes: int = 0
    forecast_used_bytes: int = 0
    peak_bytes: int = 0
    disk_hits: int = 0
    disk_bytes: int = 0
    disk_written: int = 0
    disk_awaited: int = 0
    disk_evicted: int = 0
    disk_damaged: int = 0
    disk_troubles: int = 0

    @property
    def residency_hit_rate(self) -> float:
        """Share of touches that needed no fetch; at most MIN's."""
        return self.hits / self.touches if self.touches else 0.0

    @property
    def ready_rate(self) -> float:
        """Share of batches that `next()` did not wait for."""
        return self.ready_steps / self.steps if self.steps else 0.0

    @property
    def prefetch_accuracy(self) -> float:
        """Share of prefetched bytes that were used."""
        return self.prefetched_used_bytes / self.prefetched_bytes if self.prefetched_bytes else 1.0

    @property
    def fraction_of_min(self) -> float:
        """Hits as a share of those of Belady's MIN on the same touches."""
        return self.hits / self.min_hits if self.min_hits else 1.0

    @property
    def origin_over_min(self) -> float:
        """Bytes fetched over those of Belady's MIN; 1 where MIN's are not known, or 0 as all was in memory."""
        return self.origin_bytes / self.min_bytes if self.min_bytes else 1.0

    @property
    def store_bytes(self) -> int:
        """Bytes fetched from the object store."""
        # A chunk from the disk that was on its way into memory when the epoch ended is counted there, not here.
        return max(self.origin_bytes - self.disk_bytes, 0)

    @property
    def total_s(self) -> float:
        """Seconds of the epoch: planning, waiting and the training loop's own steps, the last of these left out."""
        return self.plan_s + self.wait_s + self.loop_s

    @property
    def samples_per_s(self) -> float:
        """Samples delivered per second of the epoch."""
        return self.samples / self.total_s if self.total_s else 0.0

    @property
    def waits(self) -> dict[Cause, float]:
        """Seconds waited by cause."""
        return {cause: float(getattr(self, f"wait_{cause}_s")) for cause in CAUSES}

    def __add__(self, other: "EpochStats") -> "EpochStats":
        mine, theirs = asdict(self), asdict(other)
        return EpochStats(**{name: mine[name] if name == "epoch" else mine[name] + theirs[name] for name in mine})

    def figures(self) -> dict[str, float]:
        """Return counters and rates by name."""
        rates = ("residency_hit_rate", "ready_rate", "prefetch_accuracy", "fraction_of_min", "origin_over_min")
        return {**asdict(self), **{name: float(getattr(self, name)) for name in rates}}


@dataclass(frozen=True)
class Totals:
    """Counters since the monitor began; they never go down.

    Attributes:
        batches: batches delivered.
        ready: batches that were not waited for.
        samples: samples delivered.
        touches: uses of a chunk by a batch.
        hits: touches that needed no fetch.
        origin_bytes: bytes fetched for the batches.
        waits: seconds waited by cause.
        epochs: epochs that ended.
    """

    batches: int
    ready: int
    samples: int
    touches: int
    hits: int
    origin_bytes: int
    waits: dict[Cause, float]
    epochs: int


@dataclass(frozen=True)
class Running:
    """Where a loop stands.

    Attributes:
        epoch: the epoch, from 1.
        steps: steps of the epoch.
        done: steps that it has behind it.
    """

    epoch: int
    steps: int
    done: int


@dataclass(frozen=True)
class MonitorSnapshot:
    """What a monitor knew at one moment: for whatever shows or exports it.

    Attributes:
        epochs: the epochs that ended, the latest last; at most 1,000.
        rolling: the last batches.
        totals: counters since the monitor began.
        budget: bytes of memory for chunks; 0 if not told.
        running: the epoch under way; None before the first and after each.
        trouble: what was wrong with the disk tier the last time; empty if nothing was.
    """

    epochs: tuple[EpochStats, ...]
    rolling: Rolling
    totals: Totals
    budget: int
    running: Running | None
    trouble: str = ""


class Monitor:
    """Takes what a loader tells of every batch and epoch; may be read from any thread at any time.

    Args:
        budget: bytes of memory for chunks, shown beside the peak; set it anew after a move to another layout.
        window: batches that the rolling figures cover.
        clock: seconds, ever ascending.

    Attributes:
        trouble: what was wrong with the disk tier the last time; set by whoever knows.
    """

    def __init__(
        self, budget: int = 0, *, window: int = WINDOW, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.budget, self.trouble = budget, ""
        self._lock = Lock()
        self._window = RollingWindow(window, clock)
        self._epochs: deque[EpochStats] = deque(maxlen=_EPOCHS)
        self._ended = 0
        self._running: Running | None = None
        self._step = 0
        self._batches = self._ready = self._samples = self._touches = self._hits = self._bytes = 0
        self._waits = [0.0] * len(CAUSES)

    def begin(self, epoch: int, steps: int, done: int) -> None:
        """Take that a loop over an epoch's steps begins, of which `done` are done already."""
        with self._lock:
            self._running, self._step = Running(epoch, steps, done), done

    def batch(self, step: int, figures: BatchFigures) -> None:
        """Count a step's batch that the training loop received: some 2 µs."""
        fetch, decode, throttle, queue, touches, hits, samples, nbytes = figures
        with self._lock:
            self._window.add(figures)
            self._step = step + 1
            self._batches += 1
            self._samples += samples
            self._touches += touches
            self._hits += hits
            self._bytes += nbytes
            if fetch or decode or throttle or queue:
                for cause, waited in enumerate((fetch, decode, throttle, queue)):
                    self._waits[cause] += waited
            else:
                self._ready += 1

    def epoch(self, stats: EpochStats) -> None:
        """Take the figures of an epoch that ended."""
        with self._lock:
            self._epochs.append(stats)
            self._ended += 1
            self._running = None

    def snapshot(self) -> MonitorSnapshot:
        """Return what is known now."""
        with self._lock:
            totals = Totals(
                self._batches,
                self._ready,
                self._samples,
                self._touches,
                self._hits,
                self._bytes,
                dict(zip(CAUSES, self._waits, strict=True)),
                self._ended,
            )
            running = self._running and replace(self._running, done=self._step)
            return MonitorSnapshot(
                tuple(self._epochs), self._window.rolling(), totals, self.budget, running, self.trouble
            )
