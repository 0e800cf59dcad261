"""Figures of a loader's last batches, from a ring that costs the same for every batch."""

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np

Cause = Literal["fetch", "decode", "throttle", "queue"]
"""What a batch was waited for: bytes on their way, gathering and decoding, the store's rate, or its turn."""

CAUSES: Final[tuple[Cause, ...]] = ("fetch", "decode", "throttle", "queue")
WINDOW: Final = 512
"""Batches that the rolling figures cover by default."""

_ROW: Final = struct.Struct("=9d")
"""time and `BatchFigures`; float64 holds counts below 2^53 exactly."""


class BatchFigures(NamedTuple):
    """What a batch took that a training loop received. It was ready if no cause was waited for.

    Attributes:
        fetch_s: seconds that `next()` waited while a chunk was on its way.
        decode_s: seconds it waited while the batch was gathered, decoded or transformed.
        throttle_s: seconds it waited as the store had asked for fewer requests.
        queue_s: seconds it waited for anything else.
        touches: chunks the batch used.
        hits: of those, chunks that needed no fetch.
        samples: samples in the batch.
        origin_bytes: bytes fetched for it.
    """

    fetch_s: float = 0.0
    decode_s: float = 0.0
    throttle_s: float = 0.0
    queue_s: float = 0.0
    touches: int = 0
    hits: int = 0
    samples: int = 0
    origin_bytes: int = 0


@dataclass(frozen=True)
class Rolling:
    """Figures of the last batches; 0 where there are none.

    Attributes:
        batches: batches they cover.
        span_s: seconds from the first of them to the last.
        ready_rate: share of batches that were not waited for.
        residency_hit_rate: share of touches that needed no fetch.
        samples_per_s: samples delivered per second, the loop's own work included.
        bytes_per_s: bytes fetched for them per second.
        wait_share: share of that span in which the loop waited.
        waits: seconds waited by cause.
    """

    batches: int
    span_s: float
    ready_rate: float
    residency_hit_rate: float
    samples_per_s: float
    bytes_per_s: float
    wait_share: float
    waits: dict[Cause, float]

    @property
    def wait_s(self) -> float:
        """Seconds waited."""
        return sum(self.waits.values())


class RollingWindow:
    """The last batches of a loader. Not thread-safe: its owner holds a lock.

    Rows are packed into a buffer that numpy reads as an array: a third of the time of assigning to the array.

    Args:
        batches: how many to keep.
        clock: seconds, ever ascending.
    """

    def __init__(self, batches: int = WINDOW, clock: Callable[[], float] = time.perf_counter) -> None:
        if batches < 2:  # noqa: PLR2004 - a rate needs two moments
            raise ValueError(f"a window of {batches} batches gives no rates; use at least 2")
        self._raw = bytearray(batches * _ROW.size)
        self._rows = np.frombuffer(self._raw, np.float64).reshape(batches, -1)
        self._clock = clock
        self._added = 0
        self._length = batches

    def add(self, figures: BatchFigures) -> None:
        """Take a batch."""
        _ROW.pack_into(self._raw, self._added % self._length * _ROW.size, self._clock(), *figures)
        self._added += 1

    def rolling(self) -> Rolling:
        """Return the figures of the batches in the window."""
        count = min(self._added, self._length)
        if not count:
            return Rolling(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, dict.fromkeys(CAUSES, 0.0))
        rows = self._rows[:count]
        when, waits, (touches, hits, samples, nbytes) = rows[:, 0], rows[:, 1:5], rows[:, 5:].T
        first = self._added % self._length if self._added > self._length else 0
        span = float(when[(self._added - 1) % self._length] - when[first])
        waited = waits.sum(axis=1)
        # What the first batch brought, and the wait for it, was before the span began.
        moved = [float(each.sum() - each[first]) / span if span else 0.0 for each in (samples, nbytes, waited)]
        touched = float(touches.sum())
        return Rolling(
            batches=count,
            span_s=span,
            ready_rate=float((waited == 0.0).mean()),
            residency_hit_rate=float(hits.sum()) / touched if touched else 0.0,
            samples_per_s=moved[0],
            bytes_per_s=moved[1],
            wait_share=min(max(moved[2], 0.0), 1.0),
            waits=dict(zip(CAUSES, waits.sum(axis=0).tolist(), strict=True)),
        )
