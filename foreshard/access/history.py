"""Access counts over time: per chunk of any layout, or per sample, from validated log tables.

Time is divided into windows, one per (epoch, phase). Counts of samples can be projected on a layout that did not exist
when they were logged, because sample ids mean the same everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from foreshard.errors import LogError


@dataclass(frozen=True)
class History:
    """Accesses of C chunks in T windows, oldest first.

    Attributes:
        counts: shape (T, C), draws (or touches) in the window.
        epochs: shape (T,), the window's epoch.
        phases: shape (T,), the window's phase.
        phases_per_epoch: windows of an epoch.
    """

    counts: NDArray[np.float64]
    epochs: NDArray[np.int32]
    phases: NDArray[np.int16]
    phases_per_epoch: int

    @property
    def windows(self) -> int:
        """T, how many windows there are."""
        return self.counts.shape[0]

    @property
    def chunks(self) -> int:
        """C, how many chunks there are."""
        return self.counts.shape[1]

    @property
    def next_phase(self) -> int:
        """Phase of the window after the last one."""
        return (int(self.phases[-1]) + 1) % self.phases_per_epoch if self.windows else 0

    def until(self, window: int) -> "History":
        """Return the first `window` windows, without copying: what was known at that time."""
        return History(self.counts[:window], self.epochs[:window], self.phases[:window], self.phases_per_epoch)


class DrawCounter:
    """Counts draws per chunk and window, table by table.

    Args:
        chunk_of: shape (n,), chunk of every sample in the layout of interest.
        chunks: chunks of that layout, C.
        phases: phases per epoch.
    """

    def __init__(self, chunk_of: NDArray[np.int32], chunks: int, phases: int) -> None:
        self._chunk_of = chunk_of
        self._chunks = chunks
        self._phases = phases
        self._counts: dict[int, NDArray[np.float64]] = {}

    def add(self, samples: pa.Table) -> None:
        """Count rows of `SAMPLE_SCHEMA`.

        Raises:
            LogError: a sample outside 0..n-1, a phase outside 0..phases-1, or a chunk outside 0..C-1.
        """
        ids = _column(samples, "sample_id")
        _check_within(ids, len(self._chunk_of), "sample_id")
        chunk = np.asarray(self._chunk_of, np.int64)[ids]
        _check_within(chunk, self._chunks, "chunk")
        phase, epoch = _column(samples, "phase"), _column(samples, "epoch")
        _check_within(phase, self._phases, "phase")
        drawn = np.asarray(_column(samples, "count"), np.float64)
        cell = phase * self._chunks + chunk
        for one in np.unique(epoch).tolist():
            mine = epoch == one
            counts = self._counts.setdefault(one, np.zeros(self._phases * self._chunks))
            np.add.at(counts, cell[mine], drawn[mine])

    def history(self) -> History:
        """Return the windows of every epoch that had rows; counts add up to the tables'."""
        epochs = np.array(sorted(self._counts), np.int64)
        counts = np.empty((len(epochs) * self._phases, self._chunks))
        for number, epoch in enumerate(epochs.tolist()):
            # Each epoch's counts are given up as soon as they are copied.
            rows = slice(number * self._phases, (number + 1) * self._phases)
            counts[rows] = self._counts.pop(epoch).reshape(self._phases, self._chunks)
        return _history(counts, epochs, self._phases)


def chunk_history(samples: pa.Table, chunk_of: NDArray[np.int32], chunks: int, phases: int) -> History:
    """Count draws per chunk and window.

    Args:
        samples: rows of `SAMPLE_SCHEMA`.
        chunk_of: shape (n,), chunk of every sample in the layout of interest.
        chunks: chunks of that layout, C.
        phases: phases per epoch.

    Returns:
        Windows of every epoch that has rows; counts add up to the table's.

    Raises:
        LogError: a sample outside 0..n-1, a phase outside 0..phases-1, or a chunk outside 0..C-1.
    """
    counter = DrawCounter(chunk_of, chunks, phases)
    counter.add(samples)
    return counter.history()


def chunk_history_from_events(
    events: pa.Table,
    chunk_of_old: NDArray[np.int32],
    rows_old: NDArray[np.int32],
    chunk_of_new: NDArray[np.int32],
    chunks_new: int,
    phases: int,
) -> History:
    """Count touches per new chunk and window where only chunk-level events are known.

    A touch of an old chunk is spread evenly over its samples, and these are gathered by new chunk. That loses which
    samples were hot inside a chunk; use `chunk_history` where samples were logged.

    Args:
        events: rows of `EVENT_SCHEMA`, of one generation: chunk ids mean nothing in another one.
        chunk_of_old: shape (n,), chunk of every sample in the generation that was logged.
        rows_old: shape (C_old,), samples of each of its chunks.
        chunk_of_new: shape (n,), chunk of every sample in the layout of interest.
        chunks_new: chunks of that layout, C.
        phases: phases per epoch.

    Returns:
        Windows of every epoch that has rows; counts add up to the number of events.

    Raises:
        LogError: events of several generations, or ids and layouts that contradict each other.
    """
    generations = pc.unique(events.column("generation")).to_pylist()
    if len(generations) > 1:
        raise LogError(f"events are of the generations {sorted(map(str, generations))}; pass one generation at a time")
    chunk = _column(events, "chunk")
    _check_within(chunk, len(rows_old), "chunk")
    if len(chunk_of_old) != len(chunk_of_new):
        raise LogError(
            f"layouts hold {len(chunk_of_old)} and {len(chunk_of_new)} samples; pass layouts of one snapshot"
        )
    chunks_old = len(rows_old)
    if not np.array_equal(np.bincount(chunk_of_old, minlength=chunks_old), rows_old):
        raise LogError("rows per chunk do not match the chunk of every sample; pass both from one layout")
    _check_within(np.asarray(chunk_of_new, np.int64), chunks_new, "chunk")
    epochs, window = _windows(events, phases)
    shape = len(epochs) * phases, chunks_old
    touches = np.bincount(window * chunks_old + chunk, minlength=shape[0] * shape[1]).reshape(shape)
    pairs, shared = np.unique(np.asarray(chunk_of_old, np.int64) * chunks_new + chunk_of_new, return_counts=True)
    old, new = pairs // chunks_new, pairs % chunks_new
    share = shared / np.asarray(rows_old, np.float64)[old]
    counts = np.zeros((len(touches), chunks_new))
    for row, touched in zip(counts, touches, strict=True):
        row[:] = np.bincount(new, weights=touched[old] * share, minlength=chunks_new)
    return _history(counts, epochs, phases)


class SampleCounter:
    """Counts draws per epoch and sample, table by table.

    Args:
        n: samples in the snapshot.
        epochs: the epochs wanted, distinct, in the order wanted.
    """

    def __init__(self, n: int, epochs: Sequence[int]) -> None:
        self._rows = {epoch: row for row, epoch in enumerate(epochs)}
        self._counts = np.zeros((len(epochs), n), np.float32)
        self._seen: set[int] = set()

    def add(self, samples: pa.Table) -> None:
        """Count rows of `SAMPLE_SCHEMA`; rows of other epochs are passed over.

        Raises:
            LogError: a sample outside 0..n-1.
        """
        epoch, ids, count = (_column(samples, name) for name in ("epoch", "sample_id", "count"))
        _check_within(ids, self._counts.shape[1], "sample_id")
        for one in self._rows.keys() & set(np.unique(epoch).tolist()):
            mine = epoch == one
            np.add.at(self._counts[self._rows[one]], ids[mine], count[mine].astype(np.float32))
            self._seen.add(one)

    def counts(self) -> NDArray[np.float32]:
        """Return the draws so far, of shape (epochs, n).

        Raises:
            LogError: an epoch without a single row: a gap would look like disinterest.
        """
        for epoch in sorted(self._rows.keys() - self._seen):
            raise LogError(f"samples hold no row of epoch {epoch}; ingest that epoch, or leave it out")
        return self._counts


def sample_counts(samples: pa.Table, n: int, epochs: Sequence[int]) -> NDArray[np.float32]:
    """Count draws per epoch and sample.

    Args:
        samples: rows of `SAMPLE_SCHEMA`; rows of other epochs are passed over.
        n: samples in the snapshot.
        epochs: the epochs wanted, distinct, in the order wanted.

    Returns:
        Shape (len(epochs), n).

    Raises:
        LogError: an epoch without a single row (a gap would look like disinterest), or a sample outside 0..n-1.
    """
    counter = SampleCounter(n, epochs)
    counter.add(samples)
    return counter.counts()


def _windows(table: pa.Table, phases: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct epochs, ascending, and the window number of every row."""
    phase = _column(table, "phase")
    _check_within(phase, phases, "phase")
    epochs, position = np.unique(_column(table, "epoch"), return_inverse=True)
    return epochs, position * phases + phase


def _history(counts: NDArray[np.float64], epochs: NDArray[np.int64], phases: int) -> History:
    return History(
        counts,
        np.repeat(epochs, phases).astype(np.int32),
        np.tile(np.arange(phases, dtype=np.int16), len(epochs)),
        phases,
    )


def _check_within(values: NDArray[np.int64], end: int, what: str) -> None:
    if len(values) and (values.min() < 0 or values.max() >= end):
        wrong = values.min() if values.min() < 0 else values.max()
        raise LogError(f"{what} {wrong} is outside 0..{end - 1}; the log and the layout are not of one snapshot")


def _column(table: pa.Table, name: str) -> NDArray[np.int64]:
    return np.asarray(table.column(name).to_numpy(), np.int64)
