"""Figures of a loader's last batches, from a ring that costs the same for every batch."""

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

Cause = Literal["fetch", "decode", "throttle", "queue"]
"""What a batch was waited for: bytes on their way, gathering and decoding, the store's rate, or its turn."""

CAUSES: Final[tuple[Cause, ...]] = ("fetch", "decode", "throttle", "queue")
WINDOW: Final = 512
"""Batches that the rolling figures cover by default."""

_CODES: Final[dict[Cause | None, int]] = {None: -1, **{cause: code for code, cause in enumerate(CAUSES)}}
_ROW: Final = struct.Struct("=8d")
"""time, waited, cause, ready, touches, hits, samples, bytes; float64 holds counts below 2^53 exactly."""


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
        waits: seconds waited by cause.
        unattributed_s: seconds waited whose cause is not known.
    """

    batches: int
    span_s: float
    ready_rate: float
    residency_hit_rate: float
    samples_per_s: float
    bytes_per_s: float
    waits: dict[Cause, float]
    unattributed_s: float

    @property
    def wait_s(self) -> float:
        """Seconds waited."""
        return sum(self.waits.values()) + self.unattributed_s


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

    def add(
        self,
        ready: bool,
        waited_s: float,
        cause: Cause | None,
        touches: int,
        hits: int,
        samples: int,
        origin_bytes: int,
    ) -> None:
        """Take a batch; the arguments are those of `Monitor.batch`."""
        at = self._added % self._length * _ROW.size
        values = (waited_s, _CODES[cause], ready, touches, hits, samples, origin_bytes)
        _ROW.pack_into(self._raw, at, self._clock(), *values)
        self._added += 1

    def rolling(self) -> Rolling:
        """Return the figures of the batches in the window."""
        count = min(self._added, self._length)
        if not count:
            return Rolling(0, 0.0, 0.0, 0.0, 0.0, 0.0, dict.fromkeys(CAUSES, 0.0), 0.0)
        rows = self._rows[:count]
        when, waited, cause, ready, touches, hits, samples, nbytes = rows.T
        first = self._added % self._length if self._added > self._length else 0
        span = float(when[(self._added - 1) % self._length] - when[first])
        # What the first batch brought was done before the span began.
        moved = [float(each.sum() - each[first]) for each in (samples, nbytes)]
        by_cause = np.bincount(cause.astype(np.int64) + 1, weights=waited, minlength=len(CAUSES) + 1).tolist()
        touched = float(touches.sum())
        return Rolling(
            batches=count,
            span_s=span,
            ready_rate=float(ready.mean()),
            residency_hit_rate=float(hits.sum()) / touched if touched else 0.0,
            samples_per_s=moved[0] / span if span else 0.0,
            bytes_per_s=moved[1] / span if span else 0.0,
            waits=dict(zip(CAUSES, by_cause[1:], strict=True)),
            unattributed_s=by_cause[0],
        )
