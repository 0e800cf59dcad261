"""Our own logs as chunk traces: the order of touches, from events."""

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
    starts = np.searchsorted(window[order], np.arange(len(epochs) * phases + 1)).astype(np.int64)
    return Trace(objects, chunks.astype(object), nbytes, starts, phases)


def thin(trace: Trace, history: History, most: int, *, seed: int = 0) -> tuple[Trace, History]:
    """Leave out objects, with all their requests, until no more than `most` requests are left.

    Caches that hold the same share of the objects' bytes hit about as often as on the whole trace (Waldspurger et al.,
    "Efficient MRC construction with SHARDS", FAST 2015). Objects with more requests than that are left out.

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


def _check_phases(phase: NDArray[np.int64], phases: int) -> None:
    if len(phase) and not 0 <= phase.min() <= phase.max() < phases:
        raise LogError(
            f"the log has the phases {phase.min()}..{phase.max()}, expected 0..{phases - 1}; pass its phases"
        )


def _column(table: pa.Table, name: str) -> NDArray[np.int64]:
    return np.asarray(table.column(name).to_numpy(), np.int64)
