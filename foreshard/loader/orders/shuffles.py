"""Orders that show every sample once an epoch: in sequence, shuffled uniformly, or shuffled within windows."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from foreshard.arguments import whole_number
from foreshard.loader.feistel import IndexPermutation
from foreshard.loader.orders.population import Population, PopulationLike
from foreshard.seeding import derive_seed

_VERSION: Final = 1
"""Raised when an order of this module gives other ids for the same arguments."""


class SequentialOrder:
    """Every sample once, by ascending position in the population.

    Args:
        population: sample ids, shape (n,), a range, or an int n for the ids 0..n-1.
    """

    name = "sequential"
    fixed = True

    def __init__(self, population: PopulationLike) -> None:
        self._population = Population(population)

    def length(self, epoch: int) -> int:  # noqa: ARG002 - the same in every epoch
        """Number of ids in an epoch."""
        return len(self._population)

    def ids(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:  # noqa: ARG002
        """Return the ids at positions start..stop-1."""
        return self._population.slice(start, stop)

    def identity(self, epoch: int) -> dict[str, Any]:
        """Return what an epoch's ids depend on."""
        return {
            "name": self.name,
            "version": _VERSION,
            "length": self.length(epoch),
            "population": self._population.digest,
        }


class UniformOrder:
    """Every sample once, uniformly shuffled; O(1) memory beyond the population.

    Args:
        population: sample ids, shape (n,), a range, or an int n for the ids 0..n-1.
        seed: the run's seed.

    Raises:
        ConfigError: there are no ids, or an argument is no integer.
    """

    name = "uniform"
    fixed = True

    def __init__(self, population: PopulationLike, seed: int) -> None:
        self._population = Population(population)
        self._seed = whole_number(seed, "seed")

    def length(self, epoch: int) -> int:  # noqa: ARG002
        """Number of ids in an epoch."""
        return len(self._population)

    def ids(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return the ids at positions start..stop-1 of the epoch's permutation."""
        seed = derive_seed(purpose="order", order=self.name, root=self._seed, epoch=epoch)
        places = IndexPermutation(seed, len(self._population))(np.arange(start, stop, dtype=np.int64))
        return self._population.take(places)

    def identity(self, epoch: int) -> dict[str, Any]:
        """Return what an epoch's ids depend on."""
        return {
            "name": self.name,
            "version": _VERSION,
            "seed": self._seed,
            "length": self.length(epoch),
            "population": self._population.digest,
        }


class BlockShuffleOrder:
    """Every sample once; blocks of consecutive ids in random order, samples shuffled within windows of blocks.

    Reads stay local (a window touches few chunks of a layout that keeps neighbours together) at the price of a less
    thorough shuffle.

    Args:
        population: sample ids, shape (n,), a range, or an int n for the ids 0..n-1.
        seed: the run's seed.
        block: consecutive samples that stay in one window.
        window: blocks that are shuffled together.

    Raises:
        ConfigError: there are no ids, an argument is no integer, or a block or a window holds none.
    """

    name = "block_shuffle"
    fixed = True

    def __init__(self, population: PopulationLike, seed: int, *, block: int = 1024, window: int = 8) -> None:
        self._population = Population(population)
        self._seed = whole_number(seed, "seed")
        self._block, self._window = whole_number(block, "block", least=1), whole_number(window, "window", least=1)

    def length(self, epoch: int) -> int:  # noqa: ARG002
        """Number of ids in an epoch."""
        return len(self._population)

    def ids(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return the ids at positions start..stop-1: only the windows that overlap them are computed."""
        span = self._block * self._window
        # The short block, if any, keeps the last place: every other window then starts at a multiple of its span.
        full = len(self._population) // self._block
        seed = derive_seed(purpose="order", order=self.name, root=self._seed, epoch=epoch)
        moves = IndexPermutation(seed, full) if full else None
        parts: list[NDArray[np.int64]] = []
        for window in range(start // span, -(-stop // span)):
            low, high = window * span, min((window + 1) * span, len(self._population))
            inner = derive_seed(purpose="window", order=self.name, root=self._seed, epoch=epoch, window=window)
            wanted = np.arange(max(start - low, 0), min(stop, high) - low, dtype=np.int64)
            slot, row = np.divmod(IndexPermutation(inner, high - low)(wanted), self._block)
            # Where each of the window's blocks is taken from; the short one stays.
            blocks = np.arange(low // self._block, -(-high // self._block), dtype=np.int64)
            moved = blocks < full
            if moves is not None:
                blocks[moved] = moves(blocks[moved])
            parts.append(self._population.take(blocks[slot] * self._block + row))
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def identity(self, epoch: int) -> dict[str, Any]:
        """Return what an epoch's ids depend on."""
        return {
            "name": self.name,
            "version": _VERSION,
            "seed": self._seed,
            "length": self.length(epoch),
            "population": self._population.digest,
            "block": self._block,
            "window": self._window,
        }
