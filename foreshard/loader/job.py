"""One batch in the making: which chunks it borrows when, and where its rows go."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.loader.planning import Window
from foreshard.prefetch.arena import Arena
from foreshard.prefetch.gather import Gatherer
from foreshard.prefetch.prefetcher import Prefetcher

if TYPE_CHECKING:
    from foreshard.prefetch.region import Lent


@dataclass(frozen=True)
class ChunkMemory:
    """Chunks in memory, and what brings and takes them.

    Attributes:
        prefetcher: lends the chunks.
        arena: where they lie.
        gatherer: takes rows from there.
    """

    prefetcher: Prefetcher
    arena: Arena
    gatherer: Gatherer


class Job:
    """Batches being assembled: as many chunks at a time as are in memory together, all of them if possible.

    Args:
        window: what was planned together with them.
        index: the first batch's step there.
        stop: the one after the last batch's.
        memory: where the chunks lie.

    Attributes:
        figures: int64 (4, t), hit, bytes fetched, microseconds waited and microseconds fetched of each touch.
        gather_s: seconds that gathering took.
    """

    def __init__(
        self,
        window: Window,
        index: int,
        stop: int,
        memory: ChunkMemory,
    ) -> None:
        self._prefetcher, self._arena, self._gatherer = memory.prefetcher, memory.arena, memory.gatherer
        plan = window.touches
        first, last = int(plan.step_offsets[index]), int(plan.step_offsets[stop])
        self._first = window.base + first
        self._chunks: list[int] = plan.chunks[first:last].tolist()
        self._keep: list[bool] = window.keep[first:last].tolist()
        offsets = plan.row_offsets[first : last + 1]
        self._row_starts, self._counts = offsets[:-1] - offsets[0], np.diff(offsets)
        self._rows = plan.rows[offsets[0] : offsets[-1]].astype(np.int64)
        self._places = plan.places[offsets[0] : offsets[-1]]
        if stop > index + 1:  # places count from each batch's beginning; here one batch follows the other
            starts = plan.batch_offsets[index : stop + 1] - plan.batch_offsets[index]
            self._places = self._places + np.repeat(starts[:-1], np.diff(starts)).astype(np.int32)
        self._group: list[tuple[int, Lent]] = []
        self._parts: list[tuple[pa.RecordBatch, NDArray[np.int32]]] = []
        self.figures = np.zeros((4, last - first), np.int64)
        self.gather_s = 0.0

    def begin(self) -> list[int]:
        """Borrow what is in memory and return the touches whose chunks are not."""
        lent = self._prefetcher.lend_ready(self._chunks)
        self._group = [(at, one) for at, one in enumerate(lent) if one is not None]
        return [at for at, one in enumerate(lent) if one is None]

    def add(self, at: int) -> None:
        """Borrow one more chunk; those borrowed before are done with first if there is no room for all."""
        touch, chunk = self._first + at, self._chunks[at]
        lent = self._prefetcher.lend(touch, chunk, holding=bool(self._group))
        if lent is None:
            self._flush()
            lent = self._prefetcher.lend(touch, chunk)
            assert lent is not None, "only a holder is sent back"
        self._group.append((at, lent))
        if lent.bypass:
            self._flush()

    def finish(self) -> pa.RecordBatch:
        """Return the rows, each in its place of its batch, one batch after the other."""
        if not self._parts and len(self._group) == len(self._chunks):
            inverse = np.empty(len(self._places), np.int64)
            inverse[self._places] = np.arange(len(self._places))
            self._flush(inverse)
            return self._parts[0][0]
        self._flush()
        arrow: Any = pa  # its stubs lack concat_batches
        gathered = arrow.concat_batches([rows for rows, _ in self._parts])
        places = np.concatenate([places for _, places in self._parts])
        inverse = np.empty(len(places), np.int64)
        inverse[places] = np.arange(len(places))
        return gathered.take(pa.array(inverse))

    def abandon(self) -> None:
        """Give back what is borrowed still."""
        if self._group:
            self._give_back()

    def _flush(self, order: NDArray[np.int64] | None = None) -> None:
        """Gather the rows of the chunks borrowed and give these back."""
        began = time.perf_counter()
        self._group.sort(key=lambda item: item[0])
        at = np.array([at for at, _ in self._group], np.int64)
        slots = np.array([lent.entry.held for _, lent in self._group], np.int64)
        counts = self._counts[at]
        # The rows of the group's touches, one touch after the other.
        ends = np.cumsum(counts)
        index = np.repeat(self._row_starts[at] - ends + counts, counts) + np.arange(int(counts.sum()))
        rows = self._gatherer.gather(self._arena, slots, counts, self._rows[index], order)
        self._parts.append((rows, self._places[index]))
        for i, lent in self._group:
            fetched = (0, 0) if lent.hit else (lent.entry.nbytes, lent.entry.fetch_us)
            self.figures[:, i] = lent.hit, fetched[0], lent.waited_us, fetched[1]
        self._give_back()
        self.gather_s += time.perf_counter() - began

    def _give_back(self) -> None:
        group, self._group = self._group, []
        self._prefetcher.give_back(
            [self._first + at for at, _ in group],
            [self._chunks[at] for at, _ in group],
            [lent for _, lent in group],
            [self._keep[at] for at, _ in group],
        )
