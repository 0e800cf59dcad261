"""What the training loop receives."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch.

    It reads like a dict of numpy arrays, `batch["distance"]`; `rows` is the same as Arrow, without conversion.

    Attributes:
        epoch: the epoch, from 1.
        step: the step, from 0.
        sample_ids: int64 (b,), in the order's sequence.
        positions: int32 (b,), their places in the global batch.
        rows: the columns, with `sample_id` last.
    """

    epoch: int
    step: int
    sample_ids: NDArray[np.int64]
    positions: NDArray[np.int32]
    rows: pa.RecordBatch

    def __len__(self) -> int:
        return len(self.sample_ids)

    def __getitem__(self, column: str) -> NDArray[Any]:
        return self._arrays[column] if column in self._arrays else self._convert(column)

    def __contains__(self, column: object) -> bool:
        return column in self.rows.schema.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows.schema.names)

    def keys(self) -> list[str]:
        """Return the column names."""
        return list(self.rows.schema.names)

    @cached_property
    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {}

    def _convert(self, column: str) -> NDArray[Any]:
        array = self.rows.column(column).to_numpy(zero_copy_only=False)
        self._arrays[column] = array
        return array
