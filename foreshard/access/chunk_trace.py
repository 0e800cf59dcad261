"""Chunk traces of our own logs: the order of touches from events, or of any layout's chunks from samples' counts."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from foreshard.access.history import History
from foreshard.access.trace import Trace
from foreshard.errors import LogError


def events_trace(
    events: pa.Table,
    chunks: NDArray[np.int32],
    nbytes: NDArray[np.int64],
    *,
    generation: str,
    epochs: Sequence[int],
    phases: int,
) -> Trace:
    """Return the touches of a layout's chunks by epoch, step and rank: a window for each phase of each epoch.

    Args:
        events: rows of `EVENT_SCHEMA`; those of other generations, epochs or chunks are passed over, as chunk numbers
            mean nothing in another layout. A window of which nothing is left is empty.
        chunks: int32 (C,), the chunks wanted, ascending; object i of the trace is `chunks[i]`.
        nbytes: int64 (C,), their sizes.
        generation: the layout.
        epochs: ascending.
        phases: phases per epoch.
    """
    columns = {name: _column(events, name) for name in ("epoch", "step", "rank", "chunk", "phase")}
    mine = np.isin(columns["epoch"], epochs) & np.isin(columns["chunk"], chunks)
    if len(mine):
        logged = pc.is_in(events.column("generation").cast(pa.string()), pa.array([generation]))
        mine &= logged.to_numpy(zero_copy_only=False).astype(np.bool_)
    epoch, step, rank, chunk, phase = (values[mine] for values in columns.values())
    _check_phases(phase, phases)
    window = np.searchsorted(np.asarray(epochs), epoch) * phases + phase
    order = np.lexsort((rank, step, window))
    objects = np.searchsorted(chunks, chunk[order]).astype(np.int32)
    return _trace(objects, window[order], chunks, nbytes, len(epochs) * phases, phases)


def samples_trace(
    samples: pa.Table,
    chunk_of: NDArray[np.int32],
    chunks: NDArray[np.int32],
    nbytes: NDArray[np.int64],
    *,
    epochs: Sequence[int],
    phases: int,
    seed: int = 0,
) -> Trace:
    """Return what draws ask of a layout that may not exist yet, in random order within each phase.

    The log counts a phase's draws and forgets their order: for shuffled and weighted sampling one order is as good as
    another, but what a sequential reader's caches gain from neighbours is not in it.

    Args:
        samples: rows of `SAMPLE_SCHEMA`; those of other epochs or chunks are passed over.
        chunk_of: int32 (n,), chunk of every sample.
        chunks: int32 (C,), the chunks wanted, ascending; object i of the trace is `chunks[i]`.
        nbytes: int64 (C,), their sizes.
        epochs: ascending.
        phases: phases per epoch.
        seed: of the order.

    Raises:
        LogError: a sample outside 0..n-1, or a phase outside 0..phases-1.
    """
    epoch, phase, ids, count = (_column(samples, name) for name in ("epoch", "phase", "sample_id", "count"))
    if len(ids) and not 0 <= ids.min() <= ids.max() < len(chunk_of):
        raise LogError(
            f"samples {ids.min()}..{ids.max()} are not within 0..{len(chunk_of) - 1}; pass one snapshot's log"
        )
    chunk = chunk_of[ids]
    mine = np.isin(epoch, epochs) & np.isin(chunk, chunks)
    _check_phases(phase[mine], phases)
    window = np.searchsorted(np.asarray(epochs), epoch[mine]) * phases + phase[mine]
    objects = np.repeat(np.searchsorted(chunks, chunk[mine]).astype(np.int32), count[mine])
    window = np.repeat(window, count[mine])
    order = np.random.default_rng(seed).permutation(len(objects))
    order = order[np.argsort(window[order], kind="stable")]
    return _trace(objects[order], window[order], chunks, nbytes, len(epochs) * phases, phases)


def thin(trace: Trace, history: History, most: int, *, seed: int = 0) -> tuple[Trace, History]:
    """Leave out objects, with all their requests, until no more than `most` requests are left.

    Caches that hold the same share of the objects' bytes hit about as often as on the whole trace (Waldspurger et al.,
    "Efficient MRC construction with SHARDS", FAST 2015). A single object with more requests than that is left out.

    Args:
        trace: the trace.
        history: a history of its objects.
        most: requests.
        seed: of the choice.
    """
    if len(trace.objects) <= most:
        return trace, history
    count = len(trace.names)
    requests = np.bincount(trace.objects, minlength=count)
    order = np.random.default_rng(seed).permutation(np.flatnonzero(requests <= most))
    kept = np.sort(order[np.cumsum(requests[order]) <= most])
    place = np.full(count, -1, np.int32)
    place[kept] = np.arange(len(kept), dtype=np.int32)
    objects = place[trace.objects]
    starts = np.append(0, np.cumsum(objects >= 0))[trace.starts]
    thinned = replace(
        trace,
        objects=objects[objects >= 0],
        names=trace.names[kept],
        nbytes=trace.nbytes[kept],
        starts=starts.astype(np.int64),
    )
    return thinned, replace(history, counts=history.counts[:, kept])


def _trace(
    objects: NDArray[np.int32],
    window: NDArray[np.int64],
    chunks: NDArray[np.int32],
    nbytes: NDArray[np.int64],
    windows: int,
    phases: int,
) -> Trace:
    starts = np.searchsorted(window, np.arange(windows + 1)).astype(np.int64)
    return Trace(objects, chunks.astype(object), nbytes, starts, phases)


def _check_phases(phase: NDArray[np.int64], phases: int) -> None:
    if len(phase) and not 0 <= phase.min() <= phase.max() < phases:
        raise LogError(
            f"the log has the phases {phase.min()}..{phase.max()}, expected 0..{phases - 1}; pass its phases"
        )


def _column(table: pa.Table, name: str) -> NDArray[np.int64]:
    return np.asarray(table.column(name).to_numpy(), np.int64)
