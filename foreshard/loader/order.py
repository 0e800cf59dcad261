"""Sample orders: which sample ids a run sees in an epoch. Functions of (order, seed, epoch, population) alone.

No order knows chunks, shards, nodes, ranks or workers, so a re-shard or another world size cannot change one.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from foreshard.errors import ConfigError
from foreshard.loader.feistel import IndexPermutation
from foreshard.seeding import derive_seed, uniforms


class Order(Protocol):
    """A sequence of sample ids per epoch with random access."""

    @property
    def name(self) -> str:
        """The order's name, kept in a loader's state."""
        ...

    def length(self, epoch: int) -> int:
        """Number of ids in an epoch (epochs count from 1)."""
        ...

    def ids(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return the sample ids at positions start..stop-1 of an epoch; int64, shape (stop - start,)."""
        ...


def _population(population: NDArray[np.int64]) -> NDArray[np.int64]:
    ids = np.asarray(population, np.int64)
    if not len(ids):
        raise ConfigError("the order has no samples: the split is empty; change dataset.splits or read another split")
    return ids


class SequentialOrder:
    """Every sample once, by ascending position in the population.

    Args:
        population: sample ids, shape (n,).
    """

    name = "sequential"

    def __init__(self, population: NDArray[np.int64]) -> None:
        self._ids = _population(population)

    def length(self, epoch: int) -> int:  # noqa: ARG002 - the same in every epoch
        """Number of ids in an epoch."""
        return len(self._ids)

    def ids(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:  # noqa: ARG002
        """Return the ids at positions start..stop-1."""
        return self._ids[start:stop]


class UniformOrder:
    """Every sample once, uniformly shuffled; O(1) memory beyond the population.

    Args:
        population: sample ids, shape (n,).
        seed: the run's seed.
    """

    name = "uniform"

    def __init__(self, population: NDArray[np.int64], seed: int) -> None:
        self._ids = _population(population)
        self._seed = seed

    def length(self, epoch: int) -> int:  # noqa: ARG002
        """Number of ids in an epoch."""
        return len(self._ids)

    def ids(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return the ids at positions start..stop-1 of the epoch's permutation."""
        seed = derive_seed(purpose="order", order=self.name, root=self._seed, epoch=epoch)
        return self._ids[IndexPermutation(seed, len(self._ids))(np.arange(start, stop, dtype=np.int64))]


class BlockShuffleOrder:
    """Every sample once; blocks of consecutive ids in random order, samples shuffled within windows of blocks.

    Reads stay local (a window touches few chunks of a layout that keeps neighbours together) at the price of a less
    thorough shuffle.

    Args:
        population: sample ids, shape (n,).
        seed: the run's seed.
        block: consecutive samples that stay in one window.
        window: blocks that are shuffled together.
    """

    name = "block_shuffle"

    def __init__(self, population: NDArray[np.int64], seed: int, *, block: int = 1024, window: int = 8) -> None:
        if block < 1 or window < 1:
            raise ConfigError(f"block {block} and window {window} must be at least 1")
        self._ids = _population(population)
        self._seed, self._block, self._window = seed, block, window

    def length(self, epoch: int) -> int:  # noqa: ARG002
        """Number of ids in an epoch."""
        return len(self._ids)

    def ids(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return the ids at positions start..stop-1: only the windows that overlap them are computed."""
        span = self._block * self._window
        # The short block, if any, keeps the last place: every other window then starts at a multiple of its span.
        full = len(self._ids) // self._block
        seed = derive_seed(purpose="order", order=self.name, root=self._seed, epoch=epoch)
        parts: list[NDArray[np.int64]] = []
        for window in range(start // span, -(-stop // span)):
            low, high = window * span, min((window + 1) * span, len(self._ids))
            slots = np.arange(low, high, dtype=np.int64)
            places = slots // self._block
            moved = places < full
            blocks = places.copy()
            if full:
                blocks[moved] = IndexPermutation(seed, full)(places[moved])
            inner = derive_seed(purpose="window", order=self.name, root=self._seed, epoch=epoch, window=window)
            mixed = IndexPermutation(inner, high - low)(np.arange(high - low, dtype=np.int64))
            members = (blocks * self._block + slots % self._block)[mixed]
            parts.append(self._ids[members][max(start - low, 0) : stop - low])
        return np.concatenate(parts) if parts else np.empty(0, np.int64)


class WeightedOrder:
    """Samples drawn with replacement, with probability in proportion to a weight that may change between epochs.

    The first epochs may be one full pass each, so that every sample gets a first weight (loss) before drawing begins.

    Args:
        population: sample ids, shape (n,), ascending.
        seed: the run's seed.
        draws: ids per epoch once drawing has begun.
        first_pass: order of the epochs before drawing begins; None to draw from the start.
        first_epochs: how many epochs follow `first_pass`.
    """

    name = "weighted"

    def __init__(
        self,
        population: NDArray[np.int64],
        seed: int,
        *,
        draws: int,
        first_pass: Order | None = None,
        first_epochs: int = 1,
    ) -> None:
        if draws < 1:
            raise ConfigError(f"draws {draws} must be at least 1")
        self._ids = _population(population)
        if (np.diff(self._ids) <= 0).any():
            raise ConfigError("the population of a weighted order must be strictly ascending sample ids")
        self._seed, self._draws = seed, draws
        self._first = first_pass
        self._first_epochs = first_epochs if first_pass is not None else 0
        self.weights = np.ones(len(self._ids))
        self._cumulative: NDArray[np.float64] | None = None

    def length(self, epoch: int) -> int:
        """Number of ids in an epoch."""
        if self._first is not None and epoch <= self._first_epochs:
            return self._first.length(epoch)
        return self._draws

    def ids(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return the ids drawn for positions start..stop-1, under the weights of this moment."""
        if self._first is not None and epoch <= self._first_epochs:
            return self._first.ids(epoch, start, stop)
        if self._cumulative is None:
            self._cumulative = np.cumsum(self.weights)
        seed = derive_seed(purpose="order", order=self.name, root=self._seed, epoch=epoch)
        drawn = uniforms(seed, np.arange(start, stop, dtype=np.int64)) * self._cumulative[-1]
        # Rounding can place a draw at the very end: it belongs to the last sample with any weight.
        last = int(np.searchsorted(self._cumulative, self._cumulative[-1], side="left"))
        return self._ids[np.minimum(np.searchsorted(self._cumulative, drawn, side="right"), last)]

    def update_weights(self, sample_ids: NDArray[np.int64], weights: NDArray[np.float64]) -> None:
        """Set the weights of some samples; call it between epochs, as an epoch's order is fixed once it has begun.

        Raises:
            ConfigError: an id outside the population, or a weight that is negative or not finite, or all are 0.
        """
        places = np.searchsorted(self._ids, sample_ids)
        places = np.minimum(places, len(self._ids) - 1)
        if (self._ids[places] != sample_ids).any():
            unknown = np.asarray(sample_ids)[self._ids[places] != sample_ids][0]
            raise ConfigError(f"sample id {unknown} is not in the order's population; give ids of its split only")
        values = np.asarray(weights, np.float64)
        if not np.isfinite(values).all() or (values < 0).any():
            raise ConfigError(f"weights must be finite and at least 0; got {values[~(values >= 0)][:1]}")
        updated = self.weights.copy()
        updated[places] = values
        if not updated.sum() > 0:
            raise ConfigError("all weights are 0: nothing could be drawn; keep at least one above 0")
        self.weights, self._cumulative = updated, None

    def probabilities(self, sample_ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the chance that one draw picks each of these samples; float64, shape (m,)."""
        return self.weights[np.searchsorted(self._ids, sample_ids)] / self.weights.sum()
