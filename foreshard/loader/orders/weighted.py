"""The order of importance sampling: draws in proportion to weights that may change between epochs."""

from copy import copy
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from foreshard.arguments import whole_number
from foreshard.errors import ConfigError
from foreshard.loader.orders.population import Population, PopulationLike, digest_of
from foreshard.loader.orders.protocol import Order, check_order, frozen
from foreshard.loader.orders.sampling import InverseSampler, first_of
from foreshard.seeding import derive_seed, uniforms

_VERSION: Final = 1
"""Raised when the order gives other ids for the same arguments and weights."""


class WeightedOrder:
    """Samples drawn in proportion to a weight that may change between epochs, with or without replacement.

    The first epochs may be one full pass each, so that every sample gets a first weight (loss) before drawing begins.
    An epoch's draws are those of the weights with which it began; new weights count from the next epoch on that begins.
    Without replacement no sample comes twice in an epoch, and an epoch's ids take memory of 8 bytes each.

    Args:
        population: sample ids, ascending, shape (n,), a range, or an int n for the ids 0..n-1.
        seed: the run's seed.
        draws: ids per epoch once drawing has begun.
        replacement: whether a sample may be drawn more than once in an epoch.
        first_pass: order of the epochs before drawing begins; None to draw from the start.
        first_epochs: how many epochs follow `first_pass`.

    Attributes:
        replacement: as given.
        weights: float64 (n,), read-only; set them by `update_weights`. All are 1 at first. In the middle of an epoch
            they may be newer than those it began with, which are the loader's `epoch_order.weights`.

    Raises:
        ConfigError: the population does not ascend, a number is no integer, or `draws` is below 1 or, without
            replacement, above n.
    """

    name = "weighted"
    fixed = False

    def __init__(
        self,
        population: PopulationLike,
        seed: int,
        *,
        draws: int,
        replacement: bool = True,
        first_pass: Order | None = None,
        first_epochs: int = 1,
    ) -> None:
        self._population = Population(population)
        if not self._population.ascends():
            raise ConfigError("the population of a weighted order must be strictly ascending sample ids")
        self._seed, self._draws = whole_number(seed, "seed"), whole_number(draws, "draws", least=1)
        self.replacement = bool(replacement)
        if first_pass is not None:
            check_order(first_pass, "first_pass")
        self._first, passes = first_pass, whole_number(first_epochs, "first_epochs", least=0)
        self._first_epochs = passes if first_pass is not None else 0
        self._set_weights(np.ones(len(self._population)))

    def length(self, epoch: int) -> int:
        """Number of ids in an epoch."""
        if self._first is not None and epoch <= self._first_epochs:
            return self._first.length(epoch)
        return self._draws

    def ids(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return the ids drawn for positions start..stop-1, under the weights of this moment."""
        if self._first is not None and epoch <= self._first_epochs:
            return self._first.ids(epoch, start, stop)
        if not self.replacement:
            return self._drawn_once(epoch)[start:stop].copy()
        if self._sampler is None:
            self._sampler = InverseSampler(self.weights)
        seed = derive_seed(purpose="order", order=self.name, root=self._seed, epoch=epoch)
        return self._population.take(self._sampler(uniforms(seed, np.arange(start, stop, dtype=np.int64))))

    def _drawn_once(self, epoch: int) -> NDArray[np.int64]:
        once = self._once
        if once is None or once[0] != epoch:
            seed = derive_seed(purpose="order", order="weighted_once", root=self._seed, epoch=epoch)
            everyone = self._population.slice(0, len(self._population))
            drawn = first_of(uniforms(seed, everyone), self.weights, self._draws)
            self._once = once = epoch, everyone[drawn]
        return once[1]

    def update_weights(self, sample_ids: NDArray[np.int64], weights: NDArray[np.float64]) -> None:
        """Set the weights of some samples, from the next epoch on that begins.

        An epoch's order is fixed once it has begun: a loader goes through it, and resumes it, under the weights of that
        moment. To resume in the middle of an epoch, save the loader's `epoch_order.weights` beside its state, and those
        of the order if they are newer; set the former before `load_state_dict`, and the latter after it.

        Raises:
            ConfigError: an id outside the population, a weight that is negative or not finite, or too few above 0.
        """
        places = self._population.positions(sample_ids)
        values = np.asarray(weights, np.float64)
        if not np.isfinite(values).all() or (values < 0).any():
            wrong = values[~(np.isfinite(values) & (values >= 0))]
            raise ConfigError(f"weights must be finite and at least 0; got {wrong[:1]}")
        updated = self.weights.copy()
        updated[places] = values
        self._set_weights(updated)

    def _set_weights(self, weights: NDArray[np.float64]) -> None:
        with np.errstate(over="ignore"):
            total = float(weights.sum())
        if not total > 0:
            raise ConfigError("all weights are 0: nothing could be drawn; keep at least one above 0")
        if not np.isfinite(total):
            raise ConfigError(f"the weights add up to {total}; scale them down")
        drawable = int(np.count_nonzero(weights))
        if not self.replacement and drawable < self._draws:
            raise ConfigError(
                f"{self._draws} draws without replacement need as many samples with a weight above 0, of which there "
                f"are {drawable}; draw fewer or keep more weights above 0"
            )
        weights.flags.writeable = False
        self.weights, self._total = weights, total
        self._sampler: InverseSampler | None = None
        self._once: tuple[int, NDArray[np.int64]] | None = None
        self._digest: str | None = None
        self._frozen: WeightedOrder | None = None

    def frozen(self) -> "WeightedOrder":
        """Return this order under the weights of this moment, whatever `update_weights` does here later.

        The arrays are shared, and the same copy is returned until the weights change.
        """
        first = None if self._first is None else frozen(self._first)
        if self._frozen is None or first is not self._first:
            self._frozen = copy(self)
            vars(self._frozen)["_first"] = first
        return self._frozen

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_frozen": None}

    def probabilities(self, sample_ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the chance that one draw picks each of these samples; float64, shape (m,).

        Without replacement it is the chance of an epoch's first draw.

        Raises:
            ConfigError: an id outside the population.
        """
        return self.weights[self._population.positions(sample_ids)] / self._total

    def identity(self, epoch: int) -> dict[str, Any]:
        """Return what an epoch's ids depend on, with a digest of the weights in force where they matter."""
        common = {"name": self.name, "version": _VERSION, "seed": self._seed, "length": self.length(epoch)}
        common |= {"population": self._population.digest, "draws": self._draws, "replacement": self.replacement}
        if self._first is not None:
            common |= {"first_epochs": self._first_epochs, "first_pass": self._first.identity(1)}
            if epoch <= self._first_epochs:
                return common | {"first_pass": self._first.identity(epoch)}
        if self._digest is None:
            self._digest = digest_of(self.weights)
        return common | {"weights": self._digest}
