"""Exact windowed dynamic programme for chunk boundaries, for many memory prices at once."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.layout.cost import CostModel, expected_touches

_BLOCK: Final = 512
_TOO_SMALL_S: Final = 1e9


@dataclass(frozen=True)
class Atoms:
    """The indivisible runs of rows of one group.

    Attributes:
        rows: shape (a + 1,), int64 rows before each atom.
        heat: shape (a + 1,), float64 heat before each atom.
    """

    rows: NDArray[np.int64]
    heat: NDArray[np.float64]


def cut_atoms(heat_in_order: NDArray[np.float64], atom_rows: int) -> Atoms:
    """Cut a group into equal atoms of at least `atom_rows` rows (one atom if it has fewer), to within one row."""
    count = max(1, len(heat_in_order) // atom_rows)
    rows = np.arange(count + 1, dtype=np.int64) * len(heat_in_order) // count
    return Atoms(rows, np.concatenate([[0.0], np.cumsum(heat_in_order)])[rows])


@dataclass(frozen=True)
class SizingTerms:
    """What the cost of a chunk depends on besides its rows and heat.

    Attributes:
        row_bytes: bytes of a row.
        steps: optimizer steps per epoch.
        cost: prices of reading.
        min_rows: smallest chunk; a smaller one is taken only where no other cover exists.
        max_rows: largest chunk.
        error: relative error of the forecast, in [0, 1].
    """

    row_bytes: float
    steps: int
    cost: CostModel
    min_rows: int
    max_rows: int
    error: float = 0.0


def best_boundaries(atoms: Atoms, terms: SizingTerms, prices: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Return the cheapest chunk boundaries of one group under each memory price.

    A chunk costs its fetches or, if that is less, the price of its bytes in memory (and then `error` parts of its
    fetches), plus the overhead of a chunk. The cost is a sum over chunks and a chunk spans a bounded number of atoms,
    so a table over end positions with one window of starts each is exact (research/optimise.md §2.5).

    Args:
        atoms: the atoms of one group.
        terms: what a chunk costs.
        prices: shape (p,) seconds per byte held in memory; infinity for "nothing is held".

    Returns:
        For each price, the rows at which chunks begin and end, 0 and the group's rows included.
    """
    count = len(atoms.rows) - 1
    largest_atom = int(np.diff(atoms.rows).max())
    window = max(1, min(count, terms.max_rows // (largest_atom - 1 if largest_atom > 1 else 1)))
    best = np.full((len(prices), window + count + 1), np.inf)  # column window + i: cost of the first i atoms
    best[:, window] = 0.0
    choice = np.empty((count + 1, len(prices)), np.int32)
    every = np.arange(len(prices))
    for first in range(1, count + 1, _BLOCK):
        ends = np.arange(first, min(first + _BLOCK, count + 1))
        table = _window_costs(atoms, terms, prices, ends, window)
        for row, end in enumerate(ends.tolist()):
            total = best[:, end : end + window] + table[row]
            picked = total.argmin(axis=1)
            choice[end] = picked
            best[:, window + end] = total[every, picked]
    return _trace_back(atoms.rows, choice, window)


def _window_costs(
    atoms: Atoms, terms: SizingTerms, prices: NDArray[np.float64], ends: NDArray[np.int64], window: int
) -> NDArray[np.float64]:
    """Return the cost (ends, prices, window) of the chunk that ends at `ends` and starts `window`..1 atoms before."""
    starts = ends[:, None] - window + np.arange(window)[None, :]
    inside = np.maximum(starts, 0)
    rows = atoms.rows[ends][:, None] - atoms.rows[inside]
    heat = np.maximum(atoms.heat[ends][:, None] - atoms.heat[inside], 0.0)
    nbytes = np.asarray(rows * terms.row_bytes, np.float64)
    fetched = expected_touches(heat, terms.steps) * terms.cost.fetch_s(nbytes)
    base = np.full(rows.shape, terms.cost.chunk_overhead_s, np.float64)
    base[(starts < 0) | ((rows > terms.max_rows) & (ends[:, None] - starts > 1))] = np.inf
    base[rows < terms.min_rows] += _TOO_SMALL_S
    held = prices[None, :, None] * nbytes[:, None, :] + (terms.error * fetched)[:, None, :]
    return np.minimum(held, fetched[:, None, :]) + base[:, None, :]


def _trace_back(rows: NDArray[np.int64], choice: NDArray[np.int32], window: int) -> list[NDArray[np.int64]]:
    count, prices = len(rows) - 1, choice.shape[1]
    cut = np.zeros((prices, count + 1), np.bool_)
    every = np.arange(prices)
    at = np.full(prices, count)
    cut[:, 0] = cut[:, count] = True
    while at.any():
        # A start of column c of the window of end i is atom i - window + c; price rows that are done stay at 0.
        at = np.where(at > 0, at - window + choice[at, every], 0)
        cut[every, at] = True
    return [rows[marks] for marks in cut]
