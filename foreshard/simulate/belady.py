"""Belady's MIN over a chunk trace that is known ahead, in bytes, with bypass.

Belady, "A study of replacement algorithms for virtual-storage computers" (IBM Systems Journal, 1966): evict what is
used farthest in the future. A chunk whose own next use is farther than that of everything resident is not kept at all.
For chunks of equal size this is optimal; for unequal sizes the optimum is NP-hard and this greedy is the usual bound.
"""

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NEVER = np.iinfo(np.int64).max
"""Next use of a chunk that is not used again."""

_AT_START = -1


@dataclass(frozen=True)
class Residency:
    """What to keep when: the schedule that a prefetcher carries out.

    Attributes:
        hit: bool (m,), whether the chunk of touch i is resident before the touch.
        keep: bool (m,), whether it stays resident from touch i to its next use (a last touch: beyond the trace).
        kept_at_start: initially resident chunks that stay until their first use, or beyond the trace.
        kept_at_end: chunks resident after the trace.
    """

    hit: NDArray[np.bool_]
    keep: NDArray[np.bool_]
    kept_at_start: frozenset[int]
    kept_at_end: frozenset[int]


def next_uses(chunks: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return for every touch the index of the next touch of the same chunk, `NEVER` for the last one.

    Args:
        chunks: shape (m,), the trace.
    """
    order = np.argsort(chunks, kind="stable")
    following = np.full(len(chunks), NEVER, np.int64)
    same = chunks[order[1:]] == chunks[order[:-1]]
    following[order[:-1][same]] = order[1:][same]
    return following


def plan_residency(
    chunks: NDArray[np.int32],
    nbytes: NDArray[np.int64],
    capacity: int,
    *,
    resident: frozenset[int] = frozenset(),
    later: NDArray[np.int64] | None = None,
) -> Residency:
    """Decide for every touch of a known trace whether its chunk stays in memory until its next use.

    Where everything fits, that is a few array operations; otherwise a microsecond or two a touch.

    Args:
        chunks: shape (m,), the trace.
        nbytes: size of every chunk, shape (C,).
        capacity: bytes that kept chunks may fill.
        resident: chunks in memory at the start.
        later: int64 (C,), expected first use of every chunk beyond the trace, at least m; `NEVER` for what is not to be
            kept beyond it. None if nothing is.
    """
    uses = next_uses(chunks)
    last = np.flatnonzero(uses == NEVER)
    if later is not None:
        uses[last] = later[chunks[last]]
    touched, first = np.unique(chunks, return_index=True)
    start = np.sort(np.fromiter(resident, np.int64, len(resident)))
    start_uses = later[start] if later is not None else np.full(len(start), NEVER, np.int64)
    known = np.isin(start, touched, assume_unique=True)
    start_uses[known] = first[np.searchsorted(touched, start[known])]
    start, start_uses = start[start_uses != NEVER], start_uses[start_uses != NEVER]
    if nbytes[np.union1d(touched, start)].sum() <= capacity:
        hit = np.ones(len(chunks), np.bool_)
        hit[first[~np.isin(touched, start, assume_unique=True)]] = False
        keep, at_start = uses != NEVER, frozenset(start.tolist())
    else:
        hit, keep, at_start = _run(
            chunks, nbytes, capacity, uses, sorted(zip(start_uses.tolist(), start.tolist(), strict=True))
        )
    stay = frozenset(chunks[last[keep[last]]].tolist()) | (at_start - frozenset(touched.tolist()))
    return Residency(hit, keep, at_start, stay)


def _run(
    chunks: NDArray[np.int32],
    nbytes: NDArray[np.int64],
    capacity: int,
    uses: NDArray[np.int64],
    start: list[tuple[int, int]],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], frozenset[int]]:
    """Run MIN over a trace.

    Args:
        chunks: shape (m,).
        nbytes: shape (C,).
        capacity: bytes.
        uses: int64 (m,), next use of each touch's chunk.
        start: (first use, chunk) of what is resident at the start, ascending.

    Returns:
        `hit`, `keep` and `kept_at_start` of `Residency`.
    """
    free = capacity
    resident: dict[int, tuple[int, int]] = {}  # chunk -> (next use, touch that decided to keep it)
    farthest: list[tuple[int, int]] = []  # heap of (-next use, chunk); those whose next use is stale are skipped
    for use, chunk in start:  # the nearest uses first, so nothing is evicted for a later one
        if nbytes[chunk] <= free:
            free -= int(nbytes[chunk])
            resident[chunk] = use, _AT_START
            heapq.heappush(farthest, (-use, chunk))
    at_start = set(resident)
    hit, keep = bytearray(len(chunks)), bytearray(len(chunks))
    sizes = nbytes[chunks].tolist()
    for touch, (chunk, use, size) in enumerate(zip(chunks.tolist(), uses.tolist(), sizes, strict=True)):
        if resident.pop(chunk, None) is not None:
            hit[touch] = True
            free += size
        if use == NEVER:
            continue
        victims: list[tuple[int, int]] = []
        room = free
        while room < size and farthest and -farthest[0][0] > use:
            victim = heapq.heappop(farthest)
            if resident.get(victim[1], (NEVER, 0))[0] == -victim[0]:
                victims.append(victim)
                room += int(nbytes[victim[1]])
        if room < size:  # evicting what is used later would not do: leave it
            for victim in victims:
                heapq.heappush(farthest, victim)
            continue
        for _, victim in victims:
            decided = resident.pop(victim)[1]
            if decided == _AT_START:
                at_start.discard(victim)
            else:
                keep[decided] = False
        free = room - size
        resident[chunk] = use, touch
        keep[touch] = True
        heapq.heappush(farthest, (-use, chunk))
    return np.frombuffer(hit, np.bool_), np.frombuffer(keep, np.bool_), frozenset(at_start)
