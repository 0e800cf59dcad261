"""Greedy placements: longest processing time first, within memory."""

import numpy as np
from numpy.typing import NDArray

from foreshard.errors import PlanError
from foreshard.layout.balance import BalanceProblem


def longest_first(
    problem: BalanceProblem, order: NDArray[np.int64], start: NDArray[np.int32] | None = None
) -> NDArray[np.int32] | None:
    """Place chunks one by one where the objective grows least, within memory.

    With chunks in falling order of work and no other cost this is LPT, at most 4/3 of the best makespan on equal nodes
    (Graham, SIAM J. Appl. Math. 1969).

    Args:
        problem: what to place.
        order: shape (C,), the order in which chunks are placed.
        start: shape (C,) nodes of chunks that are placed already, -1 for the others.

    Returns:
        Shape (C,), int32, or None if a chunk fits on no node any more.
    """
    placed = np.full(problem.chunks, -1, np.int32) if start is None else start.copy()
    done = placed >= 0
    loads = np.bincount(placed[done], weights=problem.work[done], minlength=problem.nodes)
    free = problem.memory - np.bincount(placed[done], weights=problem.nbytes[done], minlength=problem.nodes)
    sums = np.zeros((problem.nodes, problem.deviation.shape[1]))
    np.add.at(sums, placed[done], problem.deviation[done])
    costs = problem.transfer_costs()
    for chunk in order[~done[order]].tolist():
        deviation = problem.deviation[chunk]
        uneven = (((sums + deviation) ** 2 - sums**2).sum(axis=1)) / problem.share
        total = problem.weights.time * (loads + problem.work[chunk]) / problem.speeds + costs[chunk]
        total += problem.weights.consistency * uneven
        total[free < problem.nbytes[chunk]] = np.inf
        node = int(total.argmin())
        if not np.isfinite(total[node]):
            return None
        placed[chunk] = node
        loads[node] += problem.work[chunk]
        free[node] -= problem.nbytes[chunk]
        sums[node] += deviation
    return placed


def largest_first(problem: BalanceProblem) -> NDArray[np.int32]:
    """Place chunks by falling size on the node with most room: for clusters whose memory is nearly full.

    Raises:
        PlanError: the chunks do not fit.
    """
    placed = np.empty(problem.chunks, np.int32)
    free = problem.memory.copy()
    for chunk in np.argsort(-problem.nbytes, kind="stable").tolist():
        node = int(free.argmax())
        if free[node] < problem.nbytes[chunk]:
            raise PlanError(
                f"a chunk of {problem.nbytes[chunk]:.0f} bytes fits on no node: {problem.nbytes.sum():.0f} bytes of "
                f"chunks for {problem.memory.sum():.0f} bytes of memory on {problem.nodes} nodes; give "
                "cluster.nodes more memory or lower reshard.max_chunk_rows"
            )
        placed[chunk] = node
        free[node] -= problem.nbytes[chunk]
    return placed


def greedy_placements(problem: BalanceProblem, noise: NDArray[np.float64]) -> list[NDArray[np.int32]]:
    """Return starting placements that all fit: LPT, what stands now (completed by LPT), and noisy variants of LPT.

    Args:
        problem: what to place.
        noise: shape (v, C), factors on the work by which variant v orders chunks.

    Raises:
        PlanError: the chunks do not fit.
    """
    found: list[NDArray[np.int32]] = []
    kept = _within_memory(problem, problem.current)
    falling = np.argsort(-problem.work, kind="stable")
    orders = [falling, *(np.argsort(-problem.work * factors, kind="stable") for factors in noise)]
    for order, start in [(falling, kept), *((order, None) for order in orders)]:
        placed = longest_first(problem, order, start)
        if placed is not None:
            found.append(placed)
    return found or [largest_first(problem)]


def repaired(problem: BalanceProblem, placed: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return a placement that fits in memory and keeps most of `placed`; `placed` itself if none is found."""
    falling = np.argsort(-problem.nbytes, kind="stable")
    found = longest_first(problem, falling, _within_memory(problem, placed))
    return placed if found is None else found


def _within_memory(problem: BalanceProblem, placed: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return a placement with the last chunks taken off (-1) the nodes that are too full."""
    kept = placed.copy()
    for node in range(problem.nodes):
        here = np.flatnonzero(kept == node)
        kept[here[np.cumsum(problem.nbytes[here]) > problem.memory[node]]] = -1
    return kept
