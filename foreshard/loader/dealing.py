"""Who reads which sample of a global batch. Dealing never changes the batch itself, only who fetches its samples."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from foreshard.arguments import whole_number
from foreshard.errors import ConfigError

Dealing = Literal["position", "owner"]
Remainder = Literal["drop", "keep", "pad"]


@dataclass(frozen=True)
class Place:
    """Where a loader stands among all that read the same run.

    Attributes:
        rank: this training process.
        world: number of training processes.
        worker: this loader worker of the rank.
        workers: loader workers of each rank; worker w yields the steps s with s % workers == w.

    Raises:
        ConfigError: a number is no integer, or there is no such rank or worker.
    """

    rank: int = 0
    world: int = 1
    worker: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        for name in ("rank", "world", "worker", "workers"):
            object.__setattr__(self, name, whole_number(getattr(self, name), name))  # frozen
        if not 0 <= self.rank < self.world:
            raise ConfigError(f"rank {self.rank} is not within 0..{self.world - 1} (world size {self.world})")
        if not 0 <= self.worker < self.workers:
            raise ConfigError(f"worker {self.worker} is not within 0..{self.workers - 1} ({self.workers} workers)")


SINGLE: Final = Place()
"""One process that reads everything itself."""


def epoch_steps(length: int, global_batch: int, remainder: Remainder) -> int:
    """Return the steps of an epoch: the same for every rank and worker, by arithmetic.

    Args:
        length: ids in the epoch.
        global_batch: samples per step over all ranks.
        remainder: what happens to a last short batch: `drop` it, `keep` it short, or `pad` it from the epoch's start.

    Raises:
        ConfigError: dropping would leave no step.
    """
    steps = length // global_batch if remainder == "drop" else -(-length // global_batch)
    if not steps:
        raise ConfigError(
            f"global batch {global_batch} is larger than the epoch's {length} samples; make it smaller or use "
            "remainder='keep'"
        )
    return steps


def batch_sizes(
    steps: NDArray[np.int64], length: int, global_batch: int, remainder: Remainder
) -> int | NDArray[np.int64]:
    """Return how many samples the global batches of some steps of an epoch hold over all ranks.

    Args:
        steps: the steps, shape (m,).
        length: ids in the epoch.
        global_batch: samples per step over all ranks.
        remainder: see `epoch_steps`.

    Returns:
        int64, shape (m,); or an int where all hold as many: any step but a last one that is kept short.
    """
    whole, rest = divmod(length, global_batch)
    if remainder != "keep" or not rest or not (steps == whole).any():
        return global_batch
    return np.where(steps == whole, rest, global_batch)


def nodes_of(place: Place, nodes: int) -> list[int]:
    """Return the nodes that a rank reads for when samples are dealt by owner.

    Args:
        place: the reader.
        nodes: number of nodes of the layout.
    """
    return list(range(place.rank, nodes, place.world)) or [place.rank % nodes]


def deal(
    positions: NDArray[np.int64],
    owners: NDArray[np.int32] | None,
    sizes: int | NDArray[np.int64],
    nodes: int,
    place: Place,
) -> NDArray[np.bool_]:
    """Return which samples of a run of global batches belong to this rank.

    By position, ranks' shares of a batch differ by one sample at most. Of a batch with fewer samples than ranks, some
    ranks get none.

    Args:
        positions: place of each sample in its global batch, shape (m,).
        owners: node that holds each sample's chunk, or None to deal by position (equal shares for every rank).
        sizes: samples in the global batch of each sample, shape (m,), or in every one; see `batch_sizes`.
        nodes: number of nodes of the layout.
        place: the reader.

    Returns:
        Mask of shape (m,). Over all ranks the masks partition the samples.
    """
    if owners is None:
        return positions * place.world // sizes == place.rank
    if place.world <= nodes:
        return owners % place.world == place.rank  # see `nodes_of`
    # More ranks than nodes: ranks n, n + nodes, ... share node n's samples in turn.
    sharers = (place.world - 1 - owners) // nodes + 1
    return owners + nodes * (positions % sharers) == place.rank
