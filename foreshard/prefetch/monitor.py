"""What a loader achieved in an epoch. Three figures that are never mixed: residency hit rate, ready rate, accuracy."""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from foreshard.simulate.belady import plan_residency


@dataclass(frozen=True)
class EpochStats:
    """Counters of one epoch of one or more loaders; counters of several loaders add up.

    Attributes:
        epoch: the epoch, from 1.
        steps: batches delivered.
        samples: samples delivered.
        ready_steps: batches that `next()` did not wait for.
        plan_s: seconds that planning took, before the first batch.
        wait_s: seconds `next()` waited for batches, planning not included.
        touches: uses of a chunk by a step.
        hits: touches whose chunk was in memory from an earlier use or a forecast, without a fetch for this touch.
        min_hits: hits of Belady's MIN on the same touches with the whole budget, or the loader's own where they are
            more: for chunks of unequal size MIN's rule is not the optimum, and an optimum is what it stands for.
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
    touches: int = 0
    hits: int = 0
    min_hits: int = 0
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

    def __add__(self, other: "EpochStats") -> "EpochStats":
        mine, theirs = asdict(self), asdict(other)
        return EpochStats(**{name: mine[name] if name == "epoch" else mine[name] + theirs[name] for name in mine})

    def figures(self) -> dict[str, float]:
        """Return counters and rates by name."""
        rates = ("residency_hit_rate", "ready_rate", "prefetch_accuracy", "fraction_of_min")
        return {**asdict(self), **{name: float(getattr(self, name)) for name in rates}}


def min_hits(chunks: NDArray[np.int32], nbytes: NDArray[np.int64], budget: int, resident: frozenset[int]) -> int:
    """Return the hits of Belady's MIN on a trace with the whole budget and nothing set aside.

    Args:
        chunks: shape (m,), the touches of an epoch.
        nbytes: size of every chunk, shape (C,).
        budget: bytes.
        resident: chunks in memory when the epoch began; MIN starts with them too.
    """
    return int(plan_residency(chunks, nbytes, budget, resident=resident).hit.sum())
