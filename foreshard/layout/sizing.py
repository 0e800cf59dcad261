"""Chunk boundaries: the cheaper of an exact dynamic programme under a memory price and the best fixed size."""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.errors import PlanError
from foreshard.layout.cost import CostModel, LayoutCost, expected_touches, layout_cost
from foreshard.layout.windowed import SizingTerms, best_boundaries, cut_atoms

_PRICES: Final = 12
_MAX_ATOMS: Final = 40_000


def fixed_offsets(group: NDArray[np.int32], chunk_rows: int, min_rows: int) -> NDArray[np.int64]:
    """Cut every group into equal chunks of about `chunk_rows` rows, none below `min_rows` where its group has as many.

    Args:
        group: shape (m,), non-decreasing codes.
        chunk_rows: largest chunk, unless that would leave chunks below `min_rows`.
        min_rows: smallest chunk.

    Returns:
        Shape (C + 1,), int64 offsets, 0 and m included.
    """
    edges = _group_edges(group)
    pieces: list[NDArray[np.int64]] = [np.zeros(1, np.int64)]
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        rows = stop - start
        count = max(1, min(-(-rows // chunk_rows), rows // min_rows))
        pieces.append(start + np.arange(1, count + 1, dtype=np.int64) * rows // count)
    return np.concatenate(pieces)


def fixed_sizes(min_rows: int, max_rows: int) -> list[int]:
    """Return the fixed sizes that are tried: from smallest to largest in steps of the square root of two."""
    steps = int(np.ceil(2 * np.log2(max_rows / min_rows)))
    return sorted({min(max_rows, round(min_rows * 2 ** (step / 2))) for step in range(steps + 1)} | {max_rows})


def size_chunks(  # noqa: PLR0913 - the terms of one optimisation
    heat_in_order: NDArray[np.float64],
    group: NDArray[np.int32],
    row_bytes: float,
    steps: int,
    cost: CostModel,
    *,
    min_rows: int,
    max_rows: int,
    atom_rows: int,
    error: float = 0.0,
) -> NDArray[np.int64]:
    """Choose chunk boundaries that minimise `layout_cost(...).total_s`.

    For a price of memory, boundaries are found exactly by a windowed dynamic programme over atoms. The price is that
    at which the chunks worth it just fill memory: bracketed on a logarithmic grid, then once more inside the bracket.
    Every sizing met on the way, and every fixed size, is judged by `layout_cost`; the cheapest wins, so the result is
    never worse than the best fixed size. With upkeep per chunk and draws that are rare against steps, this makes hot
    chunks small and cold ones large; it is the costs that decide (research/optimise.md §2.5).

    Args:
        heat_in_order: shape (m,) expected draws of each row, in packing order.
        group: shape (m,), non-decreasing codes; no chunk crosses groups.
        row_bytes: bytes of a row.
        steps: optimizer steps per epoch.
        cost: prices of reading and memory.
        min_rows: smallest chunk, unless its whole group is smaller.
        max_rows: largest chunk, at least twice `min_rows`.
        atom_rows: boundaries are considered every so many rows; more where there would be over 40,000 atoms.
        error: relative error of the forecast, in [0, 1].

    Returns:
        Shape (C + 1,), int64 offsets, 0 and m included.

    Raises:
        PlanError: no rows, bounds that no cover can meet, or arrays of different lengths.
    """
    heat = np.asarray(heat_in_order, np.float64)
    if not len(heat) or len(heat) != len(group):
        raise PlanError(f"sizing got {len(heat)} heats and {len(group)} groups; give one of each per row, at least one")
    if not 1 <= atom_rows <= min_rows or max_rows < 2 * min_rows:
        raise PlanError(
            f"atom_rows {atom_rows}, min_rows {min_rows}, max_rows {max_rows} do not fit; need 1 <= atom_rows <= "
            "min_rows and max_rows >= 2 * min_rows"
        )
    before = np.concatenate([[0.0], np.cumsum(heat)])

    def judge(offsets: NDArray[np.int64]) -> LayoutCost:
        chunk_heat = np.maximum(np.diff(before[offsets]), 0.0)
        return layout_cost(chunk_heat, np.diff(offsets) * row_bytes, steps, cost, error=error)

    fixed = [fixed_offsets(group, size, min_rows) for size in fixed_sizes(min_rows, max_rows)]
    coarse = min(max(atom_rows, -(-len(heat) // _MAX_ATOMS)), max_rows // 2)

    terms = SizingTerms(row_bytes, steps, cost, min_rows, max_rows, error)

    def at_prices(prices: NDArray[np.float64]) -> list[NDArray[np.int64]]:
        return _boundaries(heat, group, coarse, terms, prices)

    tried = _search_price(at_prices, judge, _price_range(before, fixed, terms), cost.memory_bytes)
    # On a tie the fixed size wins: its chunks are the most alike.
    return min([*fixed, *tried], key=lambda offsets: judge(offsets).total_s)


def _group_edges(group: NDArray[np.int32]) -> NDArray[np.int64]:
    if (np.diff(group) < 0).any():
        raise PlanError("group codes decrease along the packing order; sort the rows by group")
    return np.concatenate([[0], np.flatnonzero(np.diff(group)) + 1, [len(group)]]).astype(np.int64)


def _boundaries(
    heat: NDArray[np.float64], group: NDArray[np.int32], atom_rows: int, terms: SizingTerms, prices: NDArray[np.float64]
) -> list[NDArray[np.int64]]:
    edges = _group_edges(group)
    parts: list[list[NDArray[np.int64]]] = [[np.zeros(1, np.int64)] for _ in prices]
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        atoms = cut_atoms(heat[start:stop], atom_rows)
        for part, found in zip(parts, best_boundaries(atoms, terms, prices), strict=True):
            part.append(start + found[1:])
    return [np.concatenate(part) for part in parts]


def _price_range(
    before: NDArray[np.float64], fixed: list[NDArray[np.int64]], terms: SizingTerms
) -> tuple[float, float]:
    low, high = np.inf, 0.0
    for offsets in (fixed[0], fixed[-1]):
        nbytes = np.diff(offsets) * terms.row_bytes
        touches = expected_touches(np.maximum(np.diff(before[offsets]), 0.0), terms.steps)
        saved = touches * terms.cost.fetch_s(nbytes) / nbytes
        worth = saved[saved > 0]
        if len(worth):
            low, high = min(low, float(worth.min())), max(high, float(worth.max()))
    return low, high


def _search_price(
    at_prices: Callable[[NDArray[np.float64]], list[NDArray[np.int64]]],
    judge: Callable[[NDArray[np.int64]], LayoutCost],
    price_range: tuple[float, float],
    memory_bytes: float,
) -> list[NDArray[np.int64]]:
    low, high = price_range
    if high == 0.0 or memory_bytes <= 0:  # nothing is ever read, or nothing can be held
        return at_prices(np.array([np.inf]))
    grid = np.append(np.geomspace(low / 2, high * 2, _PRICES), np.inf)
    tried = at_prices(grid)
    costs = np.array([judge(offsets).total_s for offsets in tried])
    best = int(costs[:-1].argmin())
    finer = np.geomspace(grid[max(0, best - 1)], grid[min(_PRICES - 1, best + 1)], _PRICES)
    return tried + at_prices(finer)
