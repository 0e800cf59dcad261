"""What a garbage collection found and did."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.keys import LayoutRef
from foreshard.shards.gc_objects import CATEGORIES
from foreshard.uploads import Upload


@dataclass(frozen=True)
class Amount:
    """A number of objects and their bytes."""

    objects: int
    bytes: int


@dataclass(frozen=True, eq=False)
class GcReport:
    """What a garbage collection found, and what it deleted of that.

    Attributes:
        now: the time that ages were taken by: the store's, or this machine's in a dry run, which writes nothing.
        kept: the committed layouts that stay, each with the reasons.
        doomed: the committed layouts that go.
        garbage: the objects to delete, in order: rows of `GARBAGE_SCHEMA` (`key`, `size` in bytes, `category`).
        uploads: abandoned uploads to abort, after the objects.
        executed: whether this was no dry run.
        deleted: how many objects are gone, from the first row on.
        blocked: why a collection could not begin or broke off, and what to do; None if nothing was in the way.
    """

    now: datetime
    kept: Mapping[LayoutRef, tuple[str, ...]]
    doomed: tuple[LayoutRef, ...]
    garbage: pa.Table
    uploads: tuple[Upload, ...] = ()
    executed: bool = False
    deleted: int = 0
    blocked: str | None = None

    @property
    def complete(self) -> bool:
        """Whether all that was found is gone."""
        return self.executed and self.blocked is None

    @property
    def keys(self) -> list[str]:
        """Keys of the objects to delete, in order."""
        found: list[Any] = self.garbage.column("key").to_pylist()
        return found

    @property
    def total(self) -> Amount:
        """What is to be deleted in all."""
        return Amount(self.garbage.num_rows, int(self.garbage.column("size").to_numpy().sum()))

    def codes(self) -> NDArray[np.int8]:
        """Return the category of every object to delete as its place in `CATEGORIES`, ascending."""
        chunks: Any = self.garbage.column("category").chunks
        return np.concatenate([np.zeros(0, np.int8), *(chunk.indices.to_numpy() for chunk in chunks)])

    def amounts(self) -> dict[str, Amount]:
        """Return what is to be deleted, by category, in order."""
        codes, sizes = self.codes().astype(np.int64), self.garbage.column("size").to_numpy()
        counts = np.bincount(codes, minlength=len(CATEGORIES)).tolist()
        sums = np.bincount(codes, weights=sizes, minlength=len(CATEGORIES)).tolist()
        return {name: Amount(counts[code], int(sums[code])) for code, name in enumerate(CATEGORIES)}
