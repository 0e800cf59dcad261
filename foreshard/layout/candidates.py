"""What each strategy would cost: arrangement, chunk boundaries and predicted I/O, before any data moves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.config import ClusterConfig, ReshardConfig
from foreshard.errors import PlanError
from foreshard.layout.cost import CostModel, LayoutCost, layout_cost
from foreshard.layout.plan import Plan
from foreshard.layout.sizing import size_chunks
from foreshard.seeding import derive_seed
from foreshard.splits import SPLITS
from foreshard.strategies import Arrangement, StrategyInput, get_strategies

TRAIN: Final = SPLITS.index("train")
_TIE: Final = 0.01
"""Objectives closer than this are equal: the consistency predictor's own error is larger."""


@dataclass(frozen=True, eq=False)
class PlanInputs:
    """All that a plan follows from, except the scores of strategies.

    Attributes:
        generation: key of the generation to plan.
        fingerprint: snapshot it covers.
        splits: shape (n,), uint8 split codes.
        labels: shape (n,), int32 class codes.
        features: shape (n, d), float32 sketch.
        heat: shape (n,), float32 expected draws in the next epoch.
        heat_error: relative error of `heat`, in [0, 1].
        row_bytes: bytes of a row.
        steps: optimizer steps per epoch.
        cost: prices of reading and memory.
        cluster: the nodes.
        reshard: the recipe.
        root_seed: root of every seed.
        parent: plan of what is published, if any.

    Raises:
        PlanError: arrays of different lengths, no training row, or a value out of range.
    """

    generation: str
    fingerprint: str
    splits: NDArray[np.uint8]
    labels: NDArray[np.int32]
    features: NDArray[np.float32]
    heat: NDArray[np.float32]
    heat_error: float
    row_bytes: float
    steps: int
    cost: CostModel
    cluster: ClusterConfig
    reshard: ReshardConfig
    root_seed: int
    parent: Plan | None

    def __post_init__(self) -> None:
        n = len(self.splits)
        for name in ("labels", "features", "heat"):
            if len(getattr(self, name)) != n:
                raise PlanError(f"{name} has {len(getattr(self, name))} rows, splits has {n}; give one per sample")
        if not (self.splits == TRAIN).any():
            raise PlanError(f"none of the {n} samples is in the train split; raise dataset.splits.train")
        if not self.row_bytes > 0:
            raise PlanError(f"row_bytes is {self.row_bytes}; it must be above 0")
        if not np.isfinite(self.heat).all() or (self.heat < 0).any():
            raise PlanError("heat holds negative or non-finite values; it must be expected draws per sample")

    @property
    def train_ids(self) -> NDArray[np.int64]:
        """Sample ids of the train split, ascending."""
        return np.flatnonzero(self.splits == TRAIN).astype(np.int64)

    def cost_of(self, chunk_heat: NDArray[np.float64], rows: NDArray[np.float64]) -> LayoutCost:
        """Return the cost of an epoch over training chunks of the given heat and rows."""
        return layout_cost(chunk_heat, rows * self.row_bytes, self.steps, self.cost, error=self.heat_error)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A strategy with its chunks and cost.

    Attributes:
        strategy: its name.
        arrangement: packing order of training rows.
        offsets: shape (C + 1,) chunks in packing order.
        cost: expected cost of an epoch.
        consistency: predicted score in [0, 1].
        objective: weighted time, relative to the reference, plus weighted inconsistency.
        spread: mean distance between the first and the last sample id of a chunk.
    """

    strategy: str
    arrangement: Arrangement
    offsets: NDArray[np.int64]
    cost: LayoutCost
    consistency: float
    objective: float
    spread: float


def objective(reshard: ReshardConfig, seconds: float, reference: float, score: float) -> float:
    """Return the objective of a layout: weight_time * seconds / reference + weight_consistency * (1 - score)."""
    relative = seconds / reference if reference > 0 else 1.0
    return reshard.weight_time * relative + reshard.weight_consistency * (1 - score)


def rate_candidates(
    inputs: PlanInputs, scores: Mapping[str, float], names: Sequence[str], reference: float | None
) -> list[Candidate]:
    """Arrange, cut and price the training rows under each strategy.

    Args:
        inputs: the dataset and its prices.
        scores: consistency of each strategy, in [0, 1].
        names: strategies; none for all.
        reference: seconds of an epoch that count as 1, the best candidate's by default.

    Raises:
        PlanError: an unknown strategy, or one without a score in [0, 1].
    """
    ids = inputs.train_ids
    heat = inputs.heat[ids]
    found: list[tuple[str, Arrangement, NDArray[np.int64], LayoutCost]] = []
    for name, strategy in get_strategies(names).items():
        if not 0 <= scores.get(name, -1.0) <= 1:
            raise PlanError(f"strategy {name!r} has the score {scores.get(name)}; score it in [0, 1] before planning")
        seed = derive_seed(purpose="strategy", fingerprint=inputs.fingerprint, strategy=name, root=inputs.root_seed)
        arranged = strategy(StrategyInput(ids, inputs.labels[ids], inputs.features[ids], heat, seed))
        in_order = heat[arranged.order].astype(np.float64)
        offsets = size_chunks(
            in_order,
            arranged.group,
            inputs.row_bytes,
            inputs.steps,
            inputs.cost,
            min_rows=inputs.reshard.min_chunk_rows,
            max_rows=inputs.reshard.max_chunk_rows,
            atom_rows=inputs.reshard.min_chunk_rows,
            error=inputs.heat_error,
        )
        cost = inputs.cost_of(np.add.reduceat(in_order, offsets[:-1]), np.diff(offsets).astype(np.float64))
        found.append((name, arranged, offsets, cost))
    unit = min(cost.total_s for *_, cost in found) if reference is None else reference
    return [
        Candidate(
            name,
            arranged,
            offsets,
            cost,
            scores[name],
            objective(inputs.reshard, cost.total_s, unit, scores[name]),
            _spread(ids[arranged.order], offsets),
        )
        for name, arranged, offsets, cost in found
    ]


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """Return the best candidate: among those that the models cannot tell apart, the one that keeps neighbours together.

    Scores are predictions with an error of some hundredths. Where they decide nothing, locality does: orders that read
    blocks of neighbouring samples then touch few chunks, which the I/O model does not know.
    """
    least = min(candidate.objective for candidate in candidates)
    return min(
        (candidate for candidate in candidates if candidate.objective <= least + _TIE),
        key=lambda candidate: (candidate.spread, candidate.objective, candidate.strategy),
    )


def _spread(ids: NDArray[np.int64], offsets: NDArray[np.int64]) -> float:
    return float((np.maximum.reduceat(ids, offsets[:-1]) - np.minimum.reduceat(ids, offsets[:-1])).mean())


def candidate_table(candidates: Sequence[Candidate]) -> pa.Table:
    """Return the candidates as a table, best objective first."""
    ranked = sorted(candidates, key=lambda candidate: candidate.objective)
    return pa.table(
        {
            "strategy": pa.array([c.strategy for c in ranked], pa.string()),
            "consistency": pa.array([c.consistency for c in ranked], pa.float64()),
            "seconds": pa.array([c.cost.total_s for c in ranked], pa.float64()),
            "bytes": pa.array([c.cost.bytes for c in ranked], pa.float64()),
            "requests": pa.array([c.cost.requests for c in ranked], pa.float64()),
            "chunks": pa.array([c.cost.chunks for c in ranked], pa.int64()),
            "objective": pa.array([c.objective for c in ranked], pa.float64()),
            "spread": pa.array([c.spread for c in ranked], pa.float64()),
        }
    )
