"""Hill climbing on a placement: the best single move, else the best swap with the slowest node."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.layout.balance import BalanceProblem

_TOLERANCE: Final = 1e-12
_SWAP_SOURCES: Final = 24
_SWAP_TARGETS: Final = 256
_SWAP_SAMPLES: Final = 2


class _State:
    """A placement with its sums per node, kept up to date."""

    def __init__(self, problem: BalanceProblem, placed: NDArray[np.int32]) -> None:
        self.problem = problem
        self.placed = placed.copy()
        self.costs = problem.transfer_costs()
        self.norms = (problem.deviation**2).sum(axis=1)
        self.loads = problem.node_sums(placed[None, :], problem.work)[0]
        self.held = problem.node_sums(placed[None, :], problem.nbytes)[0]
        self.sums = (
            np.stack([problem.node_sums(placed[None, :], d)[0] for d in problem.deviation.T], axis=1)
            if len(problem.deviation.T)
            else np.zeros((problem.nodes, 0))
        )

    def rest_of_pairs(self) -> NDArray[np.float64]:
        """Return the largest time among all nodes but a and b, for each pair, shape (K, K)."""
        times = self.loads / self.problem.speeds
        top = np.argsort(-times, kind="stable")[:3]
        rest = np.full((len(times), len(times)), times[top[0]])
        if len(top) > 2:  # noqa: PLR2004 - the third largest remains when the two largest are the pair
            rest[top[0], :] = rest[:, top[0]] = times[top[1]]
            rest[top[0], top[1]] = rest[top[1], top[0]] = times[top[2]]
            rest[top[0], top[0]] = times[top[1]]
        else:
            rest[:] = 0.0
        return rest

    def move(self, chunk: int, node: int) -> None:
        source = self.placed[chunk]
        for sums, value in (
            (self.loads, self.problem.work[chunk]),
            (self.held, self.problem.nbytes[chunk]),
            (self.sums, self.problem.deviation[chunk]),
        ):
            sums[source] -= value
            sums[node] += value
        self.placed[chunk] = node

    def move_gains(self) -> NDArray[np.float64]:
        """Return the change of the objective for each chunk and target node, shape (C, K); infinite where none fits."""
        problem, placed = self.problem, self.placed
        rest = self.rest_of_pairs()[placed]
        source_after = ((self.loads[placed] - problem.work) / problem.speeds[placed])[:, None]
        target_after = (self.loads[None, :] + problem.work[:, None]) / problem.speeds[None, :]
        slowest = np.maximum(np.maximum(rest, source_after), target_after)
        gain = problem.weights.time * (slowest - (self.loads / problem.speeds).max())
        gain += self.costs - self.costs[np.arange(problem.chunks), placed][:, None]
        # einsum, not a BLAS product: its order of additions does not depend on the number of threads.
        dots = np.einsum("iq,kq->ik", problem.deviation, self.sums)
        own = (self.norms - 2 * dots[np.arange(problem.chunks), placed]) / problem.share[placed]
        gain += problem.weights.consistency * (own[:, None] + (self.norms[:, None] + 2 * dots) / problem.share)
        gain[self.held[None, :] + problem.nbytes[:, None] > problem.memory[None, :]] = np.inf
        gain[np.arange(problem.chunks), placed] = np.inf
        return gain

    def best_swap(self, sample: int) -> tuple[float, int, int]:
        """Return the gain and the chunks of the best swap between the slowest node and another one.

        Of many chunks only every so many-th is tried; `sample` shifts which.
        """
        problem, placed = self.problem, self.placed
        slowest = int((self.loads / problem.speeds).argmax())
        ours, theirs = np.flatnonzero(placed == slowest), np.flatnonzero(placed != slowest)
        if not len(ours) or not len(theirs):
            return np.inf, 0, 0
        i, j = _thin(ours, _SWAP_SOURCES, sample), _thin(theirs, _SWAP_TARGETS, sample)
        node = placed[j]
        shift = problem.work[i][:, None] - problem.work[j][None, :]
        ours_after = (self.loads[slowest] - shift) / problem.speeds[slowest]
        theirs_after = (self.loads[node][None, :] + shift) / problem.speeds[node][None, :]
        after = np.maximum(np.maximum(ours_after, theirs_after), self.rest_of_pairs()[slowest, node][None, :])
        gain = problem.weights.time * (after - (self.loads / problem.speeds).max())
        gain += (self.costs[i][:, node] - self.costs[i, slowest][:, None]) + (
            self.costs[j, slowest] - self.costs[j, node]
        )[None, :]
        gain += problem.weights.consistency * self._swap_unevenness(i, j, slowest)
        bytes_shift = problem.nbytes[i][:, None] - problem.nbytes[j][None, :]
        full = (self.held[node][None, :] + bytes_shift > problem.memory[node][None, :]) | (
            self.held[slowest] - bytes_shift > problem.memory[slowest]
        )
        gain[full] = np.inf
        row, column = np.unravel_index(int(gain.argmin()), gain.shape)
        return float(gain[row, column]), int(i[row]), int(j[column])

    def _swap_unevenness(self, i: NDArray[np.int64], j: NDArray[np.int64], slowest: int) -> NDArray[np.float64]:
        problem, node = self.problem, self.placed[j]
        ours, theirs = problem.deviation[i], problem.deviation[j]
        apart = self.norms[i][:, None] + self.norms[j][None, :] - 2 * np.einsum("iq,jq->ij", ours, theirs)
        there = self.sums[slowest]
        from_ours = (ours * there).sum(axis=1)[:, None] - (theirs * there).sum(axis=1)[None, :]
        into_theirs = np.einsum("iq,jq->ij", ours, self.sums[node]) - (theirs * self.sums[node]).sum(axis=1)[None, :]
        return (apart - 2 * from_ours) / problem.share[slowest] + (apart + 2 * into_theirs) / problem.share[node][None]


def _thin(values: NDArray[np.int64], most: int, sample: int) -> NDArray[np.int64]:
    stride = -(-len(values) // most)
    return values[sample % stride :: stride]


def improve(problem: BalanceProblem, placed: NDArray[np.int32], steps: int) -> NDArray[np.int32]:
    """Return a placement at least as good, after at most `steps` improving moves or swaps; memory stays respected.

    Args:
        problem: what is placed.
        placed: shape (C,), int32 node of every chunk.
        steps: most changes.
    """
    if problem.nodes == 1 or not problem.chunks:
        return placed
    state = _State(problem, placed)
    scale = max(abs(float(problem.evaluate(placed[None, :])[0][0])), 1e-300)
    samples, failed = 0, 0
    for _ in range(steps):
        gains = state.move_gains()
        best = int(gains.argmin())
        if gains.flat[best] < -_TOLERANCE * scale:
            state.move(best // problem.nodes, best % problem.nodes)
            continue
        gain, first, second = state.best_swap(samples)
        samples += 1
        failed = 0 if gain < -_TOLERANCE * scale else failed + 1
        if failed == _SWAP_SAMPLES:
            break
        if not failed:
            node, other = int(state.placed[first]), int(state.placed[second])
            state.move(first, other)
            state.move(second, node)
    return state.placed
