"""What the doctor measured, and what follows from it."""

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

from foreshard.loader.planning import MOST_AHEAD
from foreshard.prefetch.monitor import EpochStats

PhaseName = Literal["compute only", "all in memory", "cold"]
Part = Literal["compute", "prep", "fetch", "contention"]
PARTS: Final[tuple[Part, ...]] = ("compute", "prep", "fetch", "contention")
"""What a step's time goes into; `Diagnosis.parts_s` tells how each is found."""
QUEUES: Final = 4
"""Times that the batches that wait for the loop shall be made anew in the measured steps."""
_LEAST_S: Final = 0.05
"""Seconds that the measured steps must take: what else a machine does takes milliseconds now and then."""


@dataclass(frozen=True)
class Phase:
    """One run of the loop.

    Attributes:
        name: which of the three.
        lead: steps before the measured ones: to warm up, or until the loader runs steadily.
        steps: measured steps.
        samples: samples of these.
        nbytes: bytes of their batches, as the training loop receives them.
        seconds: time they took.
        waited_s: of that, seconds in which the loop waited for a batch.
        first_s: seconds until the first batch of all, planning included.
        total_s: seconds from the first batch to the last, the lead included.
        memory: bytes for chunks; 0 without a loader.
        stats: the loader's figures of lead and measured steps; None without a loader.
    """

    name: PhaseName
    lead: int
    steps: int
    samples: int
    nbytes: int
    seconds: float
    waited_s: float
    first_s: float
    total_s: float
    memory: int
    stats: EpochStats | None

    @property
    def step_s(self) -> float:
        """Seconds a step took."""
        return self.seconds / self.steps

    @property
    def samples_per_s(self) -> float:
        """Samples the loop ingested per second."""
        return self.samples / self.seconds if self.seconds else 0.0

    @property
    def bytes_per_s(self) -> float:
        """Bytes of batches it ingested per second."""
        return self.nbytes / self.seconds if self.seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return what is printed for machines."""
        rates = {"step_s": self.step_s, "samples_per_s": self.samples_per_s, "bytes_per_s": self.bytes_per_s}
        own = ("lead", "steps", "samples", "nbytes", "seconds", "waited_s", "first_s", "total_s", "memory")
        figures = self.stats.figures() if self.stats is not None else None
        return {**{name: getattr(self, name) for name in own}, **rates, "loader": figures}


@dataclass(frozen=True)
class Case:
    """What was examined.

    Attributes:
        layout: the layout that was read.
        order: name of the order.
        batch: samples per step.
        step_s: seconds of compute that a step stands for.
        concurrency: most fetches in flight.
        local: whether the store is a folder of this machine.
        all_columns: whether every column was handed out.
        columns: how many the layout has.
        sample_bytes: stored bytes per sample of the split.
        largest: bytes of its largest chunk.
        cold_bytes: bytes of the different chunks that the cold run used.
        neighbour_chunks: chunks that a batch of neighbouring samples lies in, on average.
        caches: what was done about caches that are not the loader's.
    """

    layout: str
    order: str
    batch: int
    step_s: float
    concurrency: int
    local: bool
    all_columns: bool
    columns: int
    sample_bytes: float
    largest: int
    cold_bytes: int
    neighbour_chunks: float
    caches: str

    @property
    def enough(self) -> int:
        """Bytes of memory with which no chunk of the cold run is fetched twice, by what the planner sets aside."""
        ahead = max(self.cold_bytes / (1 - MOST_AHEAD), self.cold_bytes + self.largest)
        return int(ahead) + self.largest + 1


@dataclass(frozen=True)
class Diagnosis:
    """The three runs.

    Attributes:
        case: what was examined.
        compute_only: batches were there already.
        in_memory: all chunks were in memory.
        cold: nothing was, and the memory was as configured.
    """

    case: Case
    compute_only: Phase
    in_memory: Phase
    cold: Phase

    @property
    def phases(self) -> tuple[Phase, Phase, Phase]:
        """The three runs, in the order in which they explain each other."""
        return self.compute_only, self.in_memory, self.cold

    @property
    def steps_needed(self) -> int:
        """Steps that it takes to tell anything; 0 if those of the cold run did.

        Batches are made some at a time, and wait for the loop: few steps are all wait or none.
        """
        cold = self.cold
        if cold.steps >= QUEUES * cold.lead and cold.seconds >= _LEAST_S:
            return 0
        longer = 2 * _LEAST_S / max(cold.seconds, _LEAST_S / 1000)
        return max(QUEUES * cold.lead, 10 * math.ceil(longer * cold.steps / 10))

    @property
    def parts_s(self) -> dict[Part, float]:
        """Seconds of a cold step by what they went into; they add up to it.

        prep is what the loop waited for with all data in memory, fetch what it waited for beyond that when it was cold.
        compute is what the step takes alone, contention what it took longer while batches were made beside it.
        """
        cold = self.cold
        waited = cold.waited_s / cold.steps
        own = max(cold.step_s - waited, 0.0)
        prep = min(self.in_memory.waited_s / self.in_memory.steps, waited)
        compute = min(self.compute_only.step_s, own)
        return {"compute": compute, "prep": prep, "fetch": waited - prep, "contention": own - compute}

    @property
    def bottleneck(self) -> Part:
        """What most of a cold step goes into."""
        parts = self.parts_s
        return max(PARTS, key=lambda name: parts[name])

    @property
    def shares(self) -> dict[Part, float]:
        """Shares of a cold step; they add up to 1."""
        parts = self.parts_s
        total = sum(parts.values())
        return {name: parts[name] / total if total else float(name == "compute") for name in PARTS}
