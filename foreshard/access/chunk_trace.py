"""Our own logs as chunk traces: the order of touches, from events."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from foreshard.access.trace import Trace
from foreshard.errors import LogError


@dataclass(frozen=True)
class LayoutTouches:
    """The events that are touches of a layout's chunks.

    Those of other generations, epochs or chunks are passed over: chunk numbers mean nothing in another layout.

    Attributes:
        chunks: int32 (C,), the chunks wanted, ascending; object i of a trace is `chunks[i]`.
        generation: the layout.
        epochs: ascending.
        phases: phases per epoch; each is a window, and one of which nothing is left is empty.
    """

    chunks: NDArray[np.int32]
    generation: str
    epochs: Sequence[int]
    phases: int

    def requests(self, events: Iterable[pa.Table]) -> NDArray[np.int64]:
        """Return how often each chunk was touched, of shape (C,).

        Args:
            events: rows of `EVENT_SCHEMA`, in parts.
        """
        counts = np.zeros(len(self.chunks), np.int64)
        for part in events:
            counts += np.bincount(self._of(part)[-1], minlength=len(counts))
        return counts

    def trace(self, events: Iterable[pa.Table], nbytes: NDArray[np.int64]) -> Trace:
        """Return the touches by epoch, step and rank.

        Args:
            events: rows of `EVENT_SCHEMA`, in parts.
            nbytes: int64 (C,), the chunks' sizes.
        """
        parts = [self._of(part) for part in events] or [(np.zeros(0, np.int32),) * 4]
        window, step, rank, objects = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.lexsort((rank, step, window))
        starts = np.searchsorted(window[order], np.arange(len(self.epochs) * self.phases + 1)).astype(np.int64)
        return Trace(objects[order], self.chunks.astype(object), nbytes, starts, self.phases)

    def _of(self, events: pa.Table) -> tuple[NDArray[np.int32], ...]:
        """Return window, step, rank and object of the touches in a table."""
        columns = {name: np.asarray(events.column(name).to_numpy()) for name in ("epoch", "step", "rank", "chunk")}
        place = np.searchsorted(self.chunks, columns["chunk"]).astype(np.int32)
        mine = np.isin(columns["epoch"], self.epochs) & np.isin(columns["chunk"], self.chunks)
        if len(mine):
            logged = pc.is_in(events.column("generation").cast(pa.string()), pa.array([self.generation]))
            mine &= logged.to_numpy(zero_copy_only=False).astype(np.bool_)
        phase = np.asarray(events.column("phase").to_numpy(), np.int32)[mine]
        _check_phases(phase, self.phases)
        epoch = np.searchsorted(np.asarray(self.epochs), columns["epoch"][mine]).astype(np.int32)
        step, rank = (columns[name][mine].astype(np.int32) for name in ("step", "rank"))
        return epoch * np.int32(self.phases) + phase, step, rank, place[mine]


def thinned(requests: NDArray[np.int64], most: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Return objects, ascending, that have no more than `most` requests together: all of them if they have not.

    Caches that hold the same share of the objects' bytes hit about as often as on the whole trace (Waldspurger et al.,
    "Efficient MRC construction with SHARDS", FAST 2015). Objects with more requests than that are left out.

    Args:
        requests: (C,), requests of each object.
        most: requests.
        seed: of the choice.
    """
    if requests.sum() <= most:
        return np.arange(len(requests))
    order = np.random.default_rng(seed).permutation(np.flatnonzero(requests <= most))
    return np.sort(order[np.cumsum(requests[order]) <= most])


def _check_phases(phase: NDArray[np.int32], phases: int) -> None:
    if len(phase) and not 0 <= phase.min() <= phase.max() < phases:
        raise LogError(
            f"the log has the phases {phase.min()}..{phase.max()}, expected 0..{phases - 1}; pass its phases"
        )
