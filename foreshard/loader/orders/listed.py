"""An order of the user's own ids."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from foreshard.errors import ConfigError
from foreshard.loader.orders.population import Population, PopulationLike

_VERSION: Final = 1
_CACHED: Final = 2  # epochs of a callable that are kept: the one that is read and the one after it


class ListedOrder:
    """The sample ids that the user gives, in that sequence; ids may repeat and epochs differ in length.

    Args:
        source: the ids of every epoch, shape (n,), a range, or an int n for 0..n-1; or a list or tuple of such arrays,
            one per epoch, which begins again after its last; or a function of the epoch (from 1) that returns the
            epoch's ids. The function must return the same ids whenever it is asked for the same epoch.
        fixed: whether the function's later epochs are determined already, so that they may be read ahead; lists are.

    Raises:
        ConfigError: no list, an empty list, or one that is not a row of integers at least 0.
    """

    name = "listed"

    def __init__(
        self,
        source: PopulationLike | Sequence[PopulationLike] | Callable[[int], PopulationLike],
        *,
        fixed: bool = False,
    ) -> None:
        self._call: Callable[[int], PopulationLike] | None = None
        self._lists: list[Population] = []
        self._recent: dict[int, Population] = {}
        if callable(source):
            self._call = source
        elif isinstance(source, (list, tuple)) and not all(isinstance(each, (int, np.integer)) for each in source):
            self._lists = [_checked(each, f"epoch {i + 1}") for i, each in enumerate(source)]
        else:
            self._lists = [_checked(source, "every epoch")]  # pyright: ignore[reportArgumentType]
        self.fixed = fixed or self._call is None

    def length(self, epoch: int) -> int:
        """Number of ids in an epoch."""
        return len(self._of(epoch))

    def ids(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return the ids at positions start..stop-1."""
        return self._of(epoch).slice(start, stop)

    def identity(self, epoch: int) -> dict[str, Any]:
        """Return what an epoch's ids depend on: a digest of them."""
        of = self._of(epoch)
        return {"name": self.name, "version": _VERSION, "length": len(of), "ids": of.digest}

    def _of(self, epoch: int) -> Population:
        if self._call is None:
            return self._lists[(epoch - 1) % len(self._lists)]
        recent = self._recent  # replaced whole, never changed: loaders of several threads may share an order
        if epoch not in recent:
            recent = {**recent, epoch: _checked(self._call(epoch), f"epoch {epoch}")}
            kept = sorted(recent, key=lambda other: abs(other - epoch))[:_CACHED]
            self._recent = recent = {other: recent[other] for other in kept}
        return recent[epoch]


def _checked(ids: PopulationLike, where: str) -> Population:
    try:
        listed = Population(ids, f"there are none; list one for {where} at least")
    except ConfigError as error:
        raise ConfigError(f"the ids listed for {where} cannot be read: {error}") from error
    lowest = listed.lowest()
    if lowest < 0:
        raise ConfigError(f"sample id {lowest} is listed for {where}; ids count from 0")
    return listed
