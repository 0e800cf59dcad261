"""Shards that a plan takes over as they are: where its chunks lie in them, and what else those objects hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from foreshard.seeding import Origin

_ARRAYS: Final = {
    "slot": np.int32,
    "shard_origin": np.int16,
    "retired_shard": np.int32,
    "retired_slot": np.int32,
    "retired_rows": np.int32,
    "retired_ids": np.int64,
}


@dataclass(frozen=True, eq=False)
class Inherited:
    """What a plan needs to know of the I shards it takes over, numbered 0 to I - 1, to make them again from the source.

    Attributes:
        origins: what the bytes of inherited shards follow from.
        slot: (C,) int32, position of each chunk of the plan in its shard, the other shards' chunks included; empty
            where nothing is inherited.
        shard_origin: (I,) int16, position in `origins` of each inherited shard.
        retired_shard: (R,) int32, inherited shard of each retired chunk: one that lies in the object, but no
            longer in the layout.
        retired_slot: (R,) int32, its position there.
        retired_rows: (R,) int32, its samples.
        retired_ids: int64, their ids, chunk after chunk, ascending inside a chunk.
    """

    origins: tuple[Origin, ...] = ()
    slot: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    shard_origin: NDArray[np.int16] = field(default_factory=lambda: np.zeros(0, np.int16))
    retired_shard: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    retired_slot: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    retired_rows: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    retired_ids: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def shards(self) -> int:
        """Number of inherited shards."""
        return len(self.shard_origin)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by attribute name."""
        return {name: getattr(self, name) for name in _ARRAYS}

    @classmethod
    def from_arrays(cls, origins: Sequence[Origin], arrays: Mapping[str, NDArray[Any]]) -> "Inherited":
        """Rebuild from `origins` and `arrays()`."""
        typed: dict[str, Any] = {name: np.asarray(arrays[name], dtype) for name, dtype in _ARRAYS.items()}
        return cls(tuple(origins), **typed)


INHERITED_ARRAYS: Final = tuple(_ARRAYS)
"""Names of the arrays of `Inherited`."""
