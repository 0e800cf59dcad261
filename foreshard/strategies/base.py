"""What a strategy sees and what it answers: rows of one split in, a packing order with groups out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from foreshard.errors import PlanError

Dealing = Literal["contiguous", "round_robin"]
"""How chunks go to nodes by default: runs of neighbours to one node, or one by one to each node in turn."""


@dataclass(frozen=True)
class StrategyInput:
    """The rows of one split.

    Attributes:
        sample_ids: shape (m,), int64, ascending.
        labels: shape (m,), int32 class codes.
        features: shape (m, d), float32 standardised numeric sketch, d <= 8 (0 if there is none).
        heat: shape (m,), float32 expected draws of each sample in the next epoch, at least 0.
        seed: 16 bytes from `foreshard.seeding.derive_seed`.

    Raises:
        PlanError: arrays of different lengths, or ids that are not ascending.
    """

    sample_ids: NDArray[np.int64]
    labels: NDArray[np.int32]
    features: NDArray[np.float32]
    heat: NDArray[np.float32]
    seed: bytes

    def __post_init__(self) -> None:
        rows = len(self.sample_ids)
        lengths = {"labels": len(self.labels), "features": len(self.features), "heat": len(self.heat)}
        for name, length in lengths.items():
            if length != rows:
                raise PlanError(f"{name} has {length} rows, sample_ids has {rows}; give one row per sample")
        if (np.diff(self.sample_ids) <= 0).any():
            raise PlanError("sample_ids are not strictly ascending; sort them and drop duplicates")

    @property
    def rows(self) -> int:
        """Number of rows, m."""
        return len(self.sample_ids)


@dataclass(frozen=True)
class Arrangement:
    """A packing order.

    Attributes:
        order: shape (m,), int64 permutation of 0..m-1; position in packing order -> row.
        group: shape (m,), int32, non-decreasing, aligned to `order`; no chunk crosses from one group into the next.
        dealing: how chunks go to nodes where no optimiser decides.
    """

    order: NDArray[np.int64]
    group: NDArray[np.int32]
    dealing: Dealing


Strategy = Callable[[StrategyInput], Arrangement]
"""A way to group rows: a pure function of its input."""
