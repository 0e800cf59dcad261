"""Chunks to nodes: bundling of light chunks, the genetic search and its distance to a lower bound."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.errors import PlanError
from foreshard.layout.balance import AssignmentWeights, BalanceProblem
from foreshard.layout.genetic import evolve

_MAX_ITEMS: Final = 2048
_BUNDLE_SHARE: Final = 1 / 64


@dataclass(frozen=True)
class Assignment:
    """Where chunks go and how good that is.

    Attributes:
        node: shape (C,), int32.
        objective: see `BalanceProblem`.
        lower_bound: no assignment can have a smaller objective.
        gap: objective / lower_bound - 1.
        makespan: seconds of work of the slowest node.
        moved_bytes: bytes of chunks that the node does not hold yet.
    """

    node: NDArray[np.int32]
    objective: float
    lower_bound: float
    gap: float
    makespan: float
    moved_bytes: float


def assign_chunks(  # noqa: PLR0913 - the terms of one optimisation
    work: NDArray[np.float64],
    nbytes: NDArray[np.float64],
    speeds: NDArray[np.float64],
    memory: NDArray[np.float64],
    bandwidth: NDArray[np.float64],
    current: NDArray[np.int32],
    deviation: NDArray[np.float64],
    *,
    weights: AssignmentWeights,
    seed: bytes,
    generations: int,
) -> Assignment:
    """Place chunks on nodes: balanced, alike, moving little, never beyond memory.

    Above 2,048 chunks, light ones of like work on the same node are placed together as bundles; objective and bound
    are those of the single chunks.

    Args:
        work: shape (C,) seconds of reading per epoch on a node of speed 1.
        nbytes: shape (C,).
        speeds: shape (K,) relative throughput.
        memory: shape (K,) bytes.
        bandwidth: shape (K,) bytes per second.
        current: shape (C,) int32 node that holds the chunk now, -1 for none.
        deviation: shape (C, q), see `BalanceProblem`; q may be 0.
        weights: importance of time, transfer and consistency.
        seed: 16 bytes; equal input gives equal output.
        generations: of the genetic search.

    Raises:
        PlanError: arrays that do not fit together, a current node that is not there, or chunks that exceed memory.
    """
    problem = BalanceProblem(
        np.asarray(work, np.float64),
        np.asarray(nbytes, np.float64),
        np.asarray(deviation, np.float64),
        np.asarray(current, np.int32),
        np.asarray(speeds, np.float64),
        np.asarray(memory, np.float64),
        np.asarray(bandwidth, np.float64),
        weights,
    )
    _check(problem)
    if not problem.chunks:
        return rate_assignment(problem, np.zeros(0, np.int32))
    bundle = _bundles(problem)
    return rate_assignment(problem, evolve(_bundled(problem, bundle), seed, generations)[bundle])


def rate_assignment(problem: BalanceProblem, node: NDArray[np.int32]) -> Assignment:
    """Return the figures of a given placement, shape (C,)."""
    objective = float(problem.evaluate(node[None, :])[0][0])
    bound = problem.lower_bound()
    times = problem.node_sums(node[None, :], problem.work)[0] / problem.speeds
    return Assignment(
        node=node,
        objective=objective,
        lower_bound=bound,
        gap=objective / bound - 1 if bound > 0 else 0.0,
        makespan=float(times.max()),
        moved_bytes=float(problem.nbytes[node != problem.current].sum()),
    )


def _check(problem: BalanceProblem) -> None:
    lengths = {len(problem.work), len(problem.nbytes), len(problem.current), len(problem.deviation)}
    if len(lengths) > 1:
        raise PlanError(f"work, nbytes, current and deviation have {sorted(lengths)} rows; give one per chunk in each")
    if not problem.nodes or not problem.nodes == len(problem.memory) == len(problem.bandwidth):
        raise PlanError("speeds, memory and bandwidth need one value per node, for at least one node")
    strange = problem.current[(problem.current < -1) | (problem.current >= problem.nodes)]
    if len(strange):
        raise PlanError(f"current node {int(strange[0])} is not one of the {problem.nodes} nodes; use -1 for none")
    needed, there = float(problem.nbytes.sum()), float(problem.memory.sum())
    if needed > there:
        raise PlanError(
            f"the chunks need {needed:.0f} bytes, the {problem.nodes} nodes have {there:.0f}; give cluster.nodes "
            f"at least {needed - there:.0f} bytes more memory"
        )


def _bundles(problem: BalanceProblem) -> NDArray[np.int64]:
    """Return the item of every chunk: heavy chunks are items of their own, light ones of like work share one."""
    chunks = problem.chunks
    if chunks <= _MAX_ITEMS:
        return np.arange(chunks)
    rank = np.empty(chunks, np.int64)
    rank[np.argsort(-problem.work, kind="stable")] = np.arange(chunks)
    heavy = rank < _MAX_ITEMS // 2
    light_bytes = float(problem.nbytes[~heavy].sum())
    target = min(2 * light_bytes / _MAX_ITEMS, float(problem.memory.min()) * _BUNDLE_SHARE)
    # Alike in work, so that there are bundles of cold chunks for nodes with much memory and little speed.
    order = np.lexsort((rank, problem.current))
    filled = np.cumsum(np.where(heavy, 0.0, problem.nbytes)[order])
    key = np.empty((chunks, 3), np.int64)
    key[order, 0] = problem.current[order]
    key[order, 1] = filled // max(target, 1.0)
    key[:, 2] = np.where(heavy, np.arange(chunks), -1)
    return np.unique(key, axis=0, return_inverse=True)[1].astype(np.int64).ravel()


def _bundled(problem: BalanceProblem, bundle: NDArray[np.int64]) -> BalanceProblem:
    items = int(bundle.max()) + 1
    current = np.empty(items, np.int32)
    current[bundle] = problem.current  # equal within a bundle
    deviation = np.zeros((items, problem.deviation.shape[1]))
    for column, values in enumerate(problem.deviation.T):
        deviation[:, column] = np.bincount(bundle, weights=values, minlength=items)
    return BalanceProblem(
        np.bincount(bundle, weights=problem.work, minlength=items).astype(np.float64),
        np.bincount(bundle, weights=problem.nbytes, minlength=items).astype(np.float64),
        deviation,
        current,
        problem.speeds,
        problem.memory,
        problem.bandwidth,
        problem.weights,
    )
