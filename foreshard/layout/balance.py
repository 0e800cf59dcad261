"""The assignment problem: which node each chunk goes to, its objective and a lower bound on it."""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

_DUAL_STEPS: Final = 200
_DUAL_CELLS: Final = 4_000_000


@dataclass(frozen=True)
class AssignmentWeights:
    """Importance of the parts of the objective.

    Attributes:
        time: per second of the slowest node.
        transfer: per second of moving chunks, averaged over nodes.
        consistency: per unit of the nodes' squared deviation from the whole dataset.
    """

    time: float = 1.0
    transfer: float = 1.0
    consistency: float = 1.0


@dataclass(frozen=True)
class BalanceProblem:
    """Chunks to place on nodes.

    The objective of a placement a is, with W, D the sums of work and deviation per node and s, b the nodes' speed and
    bandwidth (research/optimise.md §2.1):

        time max_k W_k / s_k + transfer sum_i [a_i != current_i] m_i / b_{a_i} / K + consistency sum_k |D_k|^2 / share_k

    Attributes:
        work: shape (C,) seconds of reading per epoch on a node of speed 1.
        nbytes: shape (C,).
        deviation: shape (C, q) deviation of a chunk's rows from the dataset's mean, divided by the dataset's rows.
        current: shape (C,) int32 node that has the chunk now, -1 for none.
        speeds: shape (K,).
        memory: shape (K,) bytes; never exceeded.
        bandwidth: shape (K,) bytes per second.
        weights: importance of the parts.
        share: shape (K,) each node's share of the cluster's speed.
    """

    work: NDArray[np.float64]
    nbytes: NDArray[np.float64]
    deviation: NDArray[np.float64]
    current: NDArray[np.int32]
    speeds: NDArray[np.float64]
    memory: NDArray[np.float64]
    bandwidth: NDArray[np.float64]
    weights: AssignmentWeights
    share: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "share", self.speeds / self.speeds.sum())

    @property
    def chunks(self) -> int:
        """Number of chunks, C."""
        return len(self.work)

    @property
    def nodes(self) -> int:
        """Number of nodes, K."""
        return len(self.speeds)

    def transfer_costs(self) -> NDArray[np.float64]:
        """Return the weighted cost of having each chunk on each node, shape (C, K)."""
        seconds = self.nbytes[:, None] / self.bandwidth[None, :] / self.nodes
        there = self.current[:, None] == np.arange(self.nodes)[None, :]
        return self.weights.transfer * np.where(there, 0.0, seconds)

    def evaluate(self, placements: NDArray[np.int32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the objective of each placement and the bytes by which it exceeds memory.

        Args:
            placements: shape (P, C), node of every chunk.

        Returns:
            Two arrays of shape (P,).
        """
        loads = self.node_sums(placements, self.work)
        held = self.node_sums(placements, self.nbytes)
        objective = self.weights.time * (loads / self.speeds).max(axis=1)
        moved = np.where(placements == self.current, 0.0, self.nbytes / self.bandwidth[placements])
        objective += self.weights.transfer * moved.sum(axis=1) / self.nodes
        for column in self.deviation.T:
            uneven = self.node_sums(placements, column) ** 2 / self.share
            objective += self.weights.consistency * uneven.sum(axis=1)
        return objective, np.maximum(held - self.memory, 0.0).sum(axis=1)

    def node_sums(self, placements: NDArray[np.int32], values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sum of `values` (C,) on every node under every placement, shape (P, K)."""
        count = len(placements)
        cell = placements + np.arange(count, dtype=np.int64)[:, None] * self.nodes
        summed = np.bincount(cell.ravel(), weights=np.tile(values, count), minlength=count * self.nodes)
        return summed.reshape(count, self.nodes).astype(np.float64, copy=False)

    def lower_bound(self) -> float:
        """Return a value that no placement can beat.

        Three bounds are combined: the heaviest chunk on the fastest node; the Lagrangian dual of the makespan with the
        transfers, raised by exponentiated gradient steps (any prices that add up to the weight of time are valid); and,
        by Cauchy-Schwarz, the deviation of all nodes together. Memory is relaxed.
        """
        total = self.deviation.sum(axis=0)
        uneven = self.weights.consistency * float((total**2).sum())
        if not self.chunks:
            return uneven
        move = self._cheapest_moves()
        heaviest = self.weights.time * float(self.work.max() / self.speeds.max()) + move
        spread = self.weights.time * float(self.work.sum() / self.speeds.sum()) + move
        return max(heaviest, spread, self._dual_bound()) + uneven

    def _cheapest_moves(self) -> float:
        fresh = self.nbytes[self.current < 0].sum()
        return float(self.weights.transfer * fresh / self.bandwidth.max() / self.nodes)

    def _dual_bound(self) -> float:
        if self.chunks * self.nodes > _DUAL_CELLS or self.weights.time == 0:
            return 0.0
        costs = self.transfer_costs()
        per_speed = self.work[:, None] / self.speeds[None, :]
        price, best = self.share.copy(), 0.0
        for step in range(_DUAL_STEPS):
            reduced = costs + self.weights.time * price * per_speed
            chosen = reduced.argmin(axis=1)
            best = max(best, float(reduced[np.arange(self.chunks), chosen].sum()))
            loads = np.bincount(chosen, weights=self.work, minlength=self.nodes) / self.speeds
            price = price * np.exp((loads / max(float(loads.max()), 1e-300) - 1.0) / (4 + step))
            price /= price.sum()
        return best
