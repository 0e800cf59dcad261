"""Which chunks models are compared on where there are very many: a sample has the same shares and scores as all."""

from dataclasses import replace
from typing import Final

import numpy as np

from foreshard.access.history import History

TESTED: Final = 200_000
"""Chunks that a backtest looks at, at most."""


def sampled(history: History, most: int | None = None) -> History:
    """Return the history of some of its chunks, the same ones for the same history; all of them if they are few.

    Chunks are sorted by their counts and picked at even distances, so that the hot, the lukewarm and the cold are there
    in their proportions: a share of the draws falls on nearly the same share of the chunks as in all (systematic
    sampling; Cochran, "Sampling Techniques", 1977, chapter 8).

    Args:
        history: of C chunks.
        most: chunks wanted, at least 1; `TESTED` unless given.
    """
    most = TESTED if most is None else most
    if history.chunks <= most:
        return history
    by_count = np.argsort(history.counts.sum(axis=0), kind="stable")
    picked = by_count[(np.arange(most) * 2 + 1) * history.chunks // (2 * most)]
    return replace(history, counts=np.take(history.counts, np.sort(picked), axis=1))
