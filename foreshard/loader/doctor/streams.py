"""Orders that the doctor reads: the beginning of a run, however many epochs it takes, and a few batches in turn."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from foreshard.errors import ConfigError
from foreshard.loader.order import Order

_LOOKED_AT: Final = 64
"""Batches of neighbours that are looked at, at most."""


class RunOrder:
    """The first batches of a run as one epoch: epochs follow each other, each without its last short batch.

    Args:
        order: the run's order.
        batch: samples per step.
        steps: batches to take.

    Raises:
        ConfigError: the order's epochs have fewer samples than a batch.
    """

    fixed = True

    def __init__(self, order: Order, batch: int, steps: int) -> None:
        if order.length(1) < batch:
            raise ConfigError(
                f"an epoch has {order.length(1)} samples, fewer than a batch of {batch}; take --batch smaller"
            )
        self.name = order.name
        self._order, self._batch, self._steps = order, batch, steps

    def of_length(self, steps: int) -> "RunOrder":
        """Return the beginning of the same run, other many steps of it."""
        return RunOrder(self._order, self._batch, steps)

    def length(self, epoch: int) -> int:  # noqa: ARG002 - there is only one
        """Number of ids."""
        return self._batch * self._steps

    def ids(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:  # noqa: ARG002
        """Return the ids at positions start..stop-1 of the run."""
        parts: list[NDArray[np.int64]] = []
        part, begun = 1, 0
        while begun < stop:
            length = self._order.length(part) // self._batch * self._batch
            if begun + length > start:
                parts.append(self._order.ids(part, max(start - begun, 0), min(stop - begun, length)))
            part, begun = part + 1, begun + length
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def identity(self, epoch: int) -> dict[str, Any]:
        """Return what the ids depend on; the doctor saves no state."""
        return {"name": self.name, "version": 1, "length": self.length(epoch), "order": self._order.identity(1)}


class CycleOrder:
    """The same ids over and over.

    Args:
        name: of the order they are from.
        ids: sample ids, shape (n,).
        length: how many in all.
    """

    fixed = True

    def __init__(self, name: str, ids: NDArray[np.int64], length: int) -> None:
        self.name = name
        self._ids, self._length = ids, length

    def length(self, epoch: int) -> int:  # noqa: ARG002 - there is only one
        """Number of ids."""
        return self._length

    def ids(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:  # noqa: ARG002
        """Return the ids at positions start..stop-1."""
        return self._ids[np.arange(start, stop, dtype=np.int64) % len(self._ids)]

    def identity(self, epoch: int) -> dict[str, Any]:
        """Return what the ids depend on; the doctor saves no state."""
        return {"name": self.name, "version": 1, "length": self.length(epoch)}


def fitting_batches(
    order: Order, batch: int, steps: int, chunk_of: NDArray[np.int32], nbytes: NDArray[np.int64], room: int
) -> tuple[int, int]:
    """Return how many of an order's first batches use chunks that fit into memory together; at least one.

    Args:
        order: the order.
        batch: samples per step.
        steps: most batches to look at.
        chunk_of: chunk of every sample, shape (n,).
        nbytes: size of every chunk, shape (C,).
        room: bytes.

    Returns:
        The number of batches and the bytes of the chunks they use.
    """
    used = np.zeros(len(nbytes), np.bool_)
    total, count = 0, 0
    for step in range(steps):
        chunks = np.unique(chunk_of[order.ids(1, step * batch, (step + 1) * batch)])
        more = int(nbytes[chunks[~used[chunks]]].sum())
        if count and total + more > room:
            break
        used[chunks] = True
        total, count = total + more, count + 1
    return count, total


def neighbour_chunks(ids: NDArray[np.int64], batch: int, chunk_of: NDArray[np.int32]) -> float:
    """Return how many chunks a batch of samples that follow each other lies in, on average over a few batches.

    Args:
        ids: the samples by id, shape (n,); at least one.
        batch: samples per step.
        chunk_of: chunk of every sample.
    """
    length = min(batch, len(ids))
    starts = np.unique(np.linspace(0, len(ids) - length, _LOOKED_AT).astype(np.int64))
    return float(np.mean([len(np.unique(chunk_of[ids[start : start + length]])) for start in starts]))
