"""What Belady's MIN would have done: what a loader's hits and bytes are measured by."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreshard.simulate.belady import plan_residency


@dataclass(frozen=True)
class MinTraffic:
    """What Belady's MIN does on a trace.

    Attributes:
        hits: touches whose chunk it has in memory.
        nbytes: bytes it fetches.
    """

    hits: int
    nbytes: int


def min_traffic(
    chunks: NDArray[np.int32], nbytes: NDArray[np.int64], budget: int, resident: frozenset[int]
) -> MinTraffic:
    """Return what Belady's MIN does on a trace with the whole budget and nothing set aside.

    Args:
        chunks: shape (m,), the touches of an epoch.
        nbytes: size of every chunk, shape (C,).
        budget: bytes.
        resident: chunks in memory when the epoch began; MIN starts with them too.
    """
    distinct = np.unique(chunks)
    if nbytes[distinct].sum() <= budget:  # nothing is evicted before its last use
        fetched = distinct[~np.isin(distinct, np.fromiter(resident, np.int32, len(resident)))]
        return MinTraffic(len(chunks) - len(fetched), int(nbytes[fetched].sum()))
    hit = plan_residency(chunks, nbytes, budget, resident=resident).hit
    return MinTraffic(int(np.count_nonzero(hit)), int(nbytes[chunks[~hit]].sum()))
