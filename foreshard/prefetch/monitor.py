"""What a loader achieves, per epoch and over its last batches.

Three figures that are never mixed: residency hit rate, ready rate, accuracy.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from threading import Lock
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.prefetch.rolling import CAUSES, WINDOW, Cause, Rolling, RollingWindow
from foreshard.simulate.belady import plan_residency

__all__ = ["CAUSES", "Cause", "EpochStats", "MinTraffic", "Monitor", "MonitorSnapshot", "Totals", "min_hits"]

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
        wait_throttle_s: seconds during which the store had asked for fewer requests.
        wait_queue_s: seconds during which the batch was behind others: finished, or its work not begun.
        touches: uses of a chunk by a step.
        hits: touches whose chunk was in memory from an earlier use or a forecast, without a fetch for this touch.
        min_hits: hits of Belady's MIN on the same touches with the whole budget, or the loader's own where they are
            more: for chunks of unequal size MIN's rule is not the optimum, and an optimum is what it stands for.
        min_bytes: bytes that MIN would have fetched on the same touches with the same budget, or the loader's own where
            they are fewer; 0 where that was not worked out.
        origin_bytes: bytes fetched from the object store.
        origin_requests: fetches from the object store.
        demand_requests: fetches made on demand, since no prefetch had begun.
        failed_requests: prefetches that failed; their chunks were read on demand when they were needed.
        prefetched_bytes: bytes fetched ahead, without those still in memory and unused: they count in a later epoch.
        prefetched_used_bytes: of those, bytes that a touch used.
        forecast_bytes: of the prefetched bytes, those that the prefetch manifest suggested before the order was known.
        forecast_used_bytes: of those, bytes that a touch used.
        peak_bytes: highest fill of the memory region.
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
class MinTraffic:
    """What Belady's MIN does on a trace.

    Attributes:
        hits: touches whose chunk it has in memory.
        nbytes: bytes it fetches.
    """

    hits: int
    nbytes: int


def min_traffic(
    chunks: NDArray[np.int32], nbytes: NDArray[np.int64], budget: int, resident: frozenset[int]
) -> MinTraffic:
    """Return what Belady's MIN does on a trace with the whole budget and nothing set aside.

    Args:
        chunks: shape (m,), the touches of an epoch.
        nbytes: size of every chunk, shape (C,).
        budget: bytes.
        resident: chunks in memory when the epoch began; MIN starts with them too.
    """
    hit = plan_residency(chunks, nbytes, budget, resident=resident).hit
    return MinTraffic(int(np.count_nonzero(hit)), int(nbytes[chunks[~hit]].sum()))


def min_hits(chunks: NDArray[np.int32], nbytes: NDArray[np.int64], budget: int, resident: frozenset[int]) -> int:
    """Return the hits of `min_traffic`, whose arguments these are."""
    return min_traffic(chunks, nbytes, budget, resident).hits


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
        unattributed_s: seconds waited whose cause is not known.
        epochs: epochs that ended.
    """

    batches: int
    ready: int
    samples: int
    touches: int
    hits: int
    origin_bytes: int
    waits: dict[Cause, float]
    unattributed_s: float
    epochs: int


@dataclass(frozen=True)
class MonitorSnapshot:
    """What a monitor knew at one moment: for whatever shows or exports it.

    Attributes:
        epochs: the epochs that ended, the latest last; at most 1,000.
        rolling: the last batches.
        totals: counters since the monitor began.
        budget: bytes of memory for chunks; 0 if not told.
    """

    epochs: tuple[EpochStats, ...]
    rolling: Rolling
    totals: Totals
    budget: int


class Monitor:
    """Takes what a loader tells of every batch and epoch; may be read from any thread at any time.

    Args:
        budget: bytes of memory for chunks, shown beside the peak; set it anew after a move to another layout.
        window: batches that the rolling figures cover.
        clock: seconds, ever ascending.
    """

    def __init__(
        self, budget: int = 0, *, window: int = WINDOW, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.budget = budget
        self._lock = Lock()
        self._window = RollingWindow(window, clock)
        self._epochs: deque[EpochStats] = deque(maxlen=_EPOCHS)
        self._ended = 0
        self._batches = self._ready = self._samples = self._touches = self._hits = self._bytes = 0
        self._waits: dict[Cause | None, float] = dict.fromkeys((*CAUSES, None), 0.0)

    def batch(
        self,
        ready: bool,
        waited_s: float,
        cause: Cause | None,
        touches: int,
        hits: int,
        samples: int,
        origin_bytes: int,
    ) -> None:
        """Count a batch that the training loop received: some 1 µs.

        Args:
            ready: whether `next()` did not wait for it.
            waited_s: seconds it waited.
            cause: what it waited for; None if it did not, or where that is not known.
            touches: chunks the batch used.
            hits: of those, chunks that needed no fetch.
            samples: samples in the batch.
            origin_bytes: bytes fetched for it.
        """
        with self._lock:
            self._window.add(ready, waited_s, cause, touches, hits, samples, origin_bytes)
            self._batches += 1
            self._ready += ready
            self._samples += samples
            self._touches += touches
            self._hits += hits
            self._bytes += origin_bytes
            self._waits[cause] += waited_s

    def epoch(self, stats: EpochStats) -> None:
        """Take the figures of an epoch that ended."""
        with self._lock:
            self._epochs.append(stats)
            self._ended += 1

    def snapshot(self) -> MonitorSnapshot:
        """Return what is known now."""
        with self._lock:
            waits: dict[Cause, float] = {cause: self._waits[cause] for cause in CAUSES}
            totals = Totals(
                self._batches,
                self._ready,
                self._samples,
                self._touches,
                self._hits,
                self._bytes,
                waits,
                self._waits[None],
                self._ended,
            )
            return MonitorSnapshot(tuple(self._epochs), self._window.rolling(), totals, self.budget)
