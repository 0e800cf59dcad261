"""What one loader will touch in an epoch, in order, and what to keep when: known ahead, because the order is."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.simulate.belady import NEVER

_SHORT: Final = 1 << 16  # numbers below it have 16 bits


@dataclass(frozen=True)
class Touches:
    """Chunk touches of consecutive steps, sorted by (step, chunk).

    A touch is one step's use of one chunk, however many of its rows the step wants.

    Attributes:
        steps: int32 (s,), the step numbers covered.
        step_offsets: int64 (s + 1,), touches of steps[i] are step_offsets[i]..step_offsets[i + 1] - 1.
        chunks: int32 (m,), chunk of each touch.
        row_offsets: int64 (m + 1,), entries of touch t in `rows` and `places`.
        rows: int32 (r,), row inside the chunk.
        places: int32 (r,), where the row goes in this loader's batch of the step.
        batch_offsets: int64 (s + 1,), samples of steps[i]'s batch in `sample_ids` and `positions`.
        sample_ids: int64 (r,), the samples of this loader's batches, in order.
        positions: int32 (r,), their places in the global batches.
    """

    steps: NDArray[np.int32]
    step_offsets: NDArray[np.int64]
    chunks: NDArray[np.int32]
    row_offsets: NDArray[np.int64]
    rows: NDArray[np.int32]
    places: NDArray[np.int32]
    batch_offsets: NDArray[np.int64]
    sample_ids: NDArray[np.int64]
    positions: NDArray[np.int32]


def find_touches(
    steps: NDArray[np.int32],
    step_index: NDArray[np.int64],
    sample_ids: NDArray[np.int64],
    positions: NDArray[np.int64],
    chunk_of: NDArray[np.int32],
    row_of: NDArray[np.int32],
) -> Touches:
    """Group the samples of consecutive steps by chunk.

    Args:
        steps: shape (s,), the step numbers.
        step_index: shape (r,), for every sample the index of its step in `steps`, ascending.
        sample_ids: shape (r,), in reading order.
        positions: shape (r,), place of each sample in its global batch.
        chunk_of: shape (n,), chunk of every sample of the dataset.
        row_of: shape (n,), row of every sample in its chunk.
    """
    batch_offsets = np.searchsorted(step_index, np.arange(len(steps) + 1)).astype(np.int64)
    places = (np.arange(len(sample_ids)) - batch_offsets[step_index]).astype(np.int32)
    chunks = chunk_of[sample_ids]
    span = int(chunks.max()) + 1 if len(chunks) else 1
    order = order_of(step_index, chunks, span)
    chunks, step_index = chunks[order], step_index[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (chunks[1:] != chunks[:-1]) | (step_index[1:] != step_index[:-1])
    starts = np.flatnonzero(new)
    return Touches(
        steps=steps,
        step_offsets=np.searchsorted(step_index[starts], np.arange(len(steps) + 1)).astype(np.int64),
        chunks=chunks[starts].astype(np.int32),
        row_offsets=np.concatenate([starts, [len(order)]]).astype(np.int64),
        rows=row_of[sample_ids][order].astype(np.int32),
        places=places[order],
        batch_offsets=batch_offsets,
        sample_ids=sample_ids,
        positions=positions.astype(np.int32),
    )


def order_of(step_index: NDArray[np.int64], chunks: NDArray[np.int32], span: int) -> NDArray[np.int64]:
    """Return the order that sorts samples by (step, chunk), equal ones as they come.

    Args:
        step_index: shape (r,), step of each sample, ascending.
        chunks: shape (r,), its chunk, in 0..span-1.
        span: the bound.
    """
    if span > _SHORT or (len(step_index) and step_index[-1] >= _SHORT):
        return np.argsort(step_index * span + chunks, kind="stable")
    # Numbers of 16 bits are sorted by radix, in half the time: by the lesser key, and then by the greater one.
    order = np.argsort(chunks.astype(np.uint16), kind="stable")
    return order[np.argsort(step_index.astype(np.uint16)[order], kind="stable")]


def first_touches(chunks: NDArray[np.int32], count: int) -> NDArray[np.int32]:
    """Return distinct chunks by their first place in a trace; int32.

    Args:
        chunks: shape (m,), the trace, values in 0..count-1.
        count: chunks there are, C.
    """
    if count > len(chunks):
        distinct, at = np.unique(chunks, return_index=True)
        return distinct[np.argsort(at)].astype(np.int32)
    first = np.full(count, -1, np.int64)
    first[chunks[::-1]] = np.arange(len(chunks) - 1, -1, -1)  # of those that go to one place, the last one stays
    seen = np.flatnonzero(first >= 0)
    return seen[np.argsort(first[seen])].astype(np.int32)


FORECAST: Final = 1 << 61
"""First use of what only a forecast expects: beyond everything that is known."""


def forecast_uses(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Turn forecast scores into expected first uses beyond all known touches, for `plan_residency`.

    Args:
        scores: float64 (C,), expected draws of each chunk in the next epoch; 0 for what nobody will read.

    Returns:
        int64 (C,), `FORECAST` and the chunk's rank; `NEVER` for chunks with score 0.
    """
    ranked = np.argsort(-scores, kind="stable")
    ranked = ranked[scores[ranked] > 0]
    uses = np.full(len(scores), NEVER, np.int64)
    uses[ranked] = FORECAST + np.arange(len(ranked))
    return uses


def pinned_uses(uses: NDArray[np.int64], resident: frozenset[int]) -> NDArray[np.int64]:
    """Put what is in memory before all that a forecast expects, so that it stays.

    Args:
        uses: what `forecast_uses` returned.
        resident: chunks in memory.
    """
    pinned = np.sort(np.fromiter(resident, np.int64, len(resident)))
    changed = uses.copy()
    changed[pinned] = FORECAST - len(pinned) + np.arange(len(pinned))
    return changed
