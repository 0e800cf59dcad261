"""Several orders read as one, at given ratios."""

from bisect import bisect_right
from collections.abc import Sequence
from copy import copy
from itertools import pairwise
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from foreshard.arguments import number_above_0, whole_number
from foreshard.errors import ConfigError
from foreshard.loader.orders.interleave import Interleaving
from foreshard.loader.orders.protocol import Order, check_order, frozen

Length = int | Literal["shortest", "longest"]

_VERSION: Final = 1
_PLACES: Final = 2**48  # of an epoch, so that thousands of epochs stay below 2**62


class MixtureOrder:
    """Interleaves orders (of subsets of one snapshot, say) in proportion to ratios.

    The interleaving is arithmetic: no draw, no state, and after any number of samples each component is within
    (1 + log2(k)) / 2 samples of its share. Neither it nor the components start anew with the mixture's epochs: a
    component goes on where the epoch before left it, through its own epochs one after the other, so that a rare one is
    read through as well. A component with weights draws under those with which the mixture's epoch began.

    Args:
        components: the orders.
        ratios: one above 0 for each; only their proportion counts.
        length: ids per epoch; or `shortest`: as many as there are until the first component has ended its first epoch;
            or `longest`: until every component has ended it.

    Raises:
        ConfigError: no components, other than one ratio for each, a ratio that is not above 0 and finite, or a length
            below 1 or beyond 2**48.
    """

    name = "mixture"

    def __init__(self, components: Sequence[Order], ratios: Sequence[float], *, length: Length) -> None:
        self._components = tuple(components)
        for i, component in enumerate(self._components):
            check_order(component, f"component {i}")
        if not self._components or len(ratios) != len(self._components):
            raise ConfigError(f"{len(self._components)} components have {len(ratios)} ratios; give one ratio for each")
        try:
            self._ratios = [number_above_0(ratio, "ratio") for ratio in ratios]
        except ConfigError as error:
            raise ConfigError(f"{error}; leave out a component that is not wanted") from error
        self._places = Interleaving(self._ratios)
        self._length = self._length_of(length)
        if not 1 <= self._length <= _PLACES:
            raise ConfigError(f"the mixture's length {self._length} must be in 1..2**48; give another length")
        self.fixed = all(component.fixed for component in self._components)
        self._ends: list[list[int]] = [
            [0] for _ in self._components
        ]  # where each epoch of a component ends, 0 before any

    def _length_of(self, length: Length) -> int:
        if not isinstance(length, str):
            return whole_number(length, "length")
        if length not in ("shortest", "longest"):
            raise ConfigError(f"length {length!r} is unknown; give a number of ids, 'shortest' or 'longest'")
        ends = [self._places.exhausts(i, order.length(1)) for i, order in enumerate(self._components)]
        return min(ends) if length == "shortest" else max(ends)

    def length(self, epoch: int) -> int:  # noqa: ARG002 - the same in every epoch
        """Number of ids in an epoch."""
        return self._length

    def components(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return the index of the component that gives each of the ids at positions start..stop-1."""
        return self._places.components_at(self._begin(epoch) + np.arange(start, stop, dtype=np.int64))

    def ids(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return the ids at positions start..stop-1."""
        which = self.components(epoch, start, stop)
        first = self._places.counts(self._begin(epoch) + start)
        counts = np.bincount(which, minlength=len(first)).tolist()
        ids = np.empty(len(which), np.int64)
        for i in range(len(first)):
            if counts[i]:
                ids[which == i] = self._stream(i, first[i], first[i] + counts[i])
        return ids

    def identity(self, epoch: int) -> dict[str, Any]:
        """Return what an epoch's ids depend on, with the components' identities in the epochs they end it in."""
        last = self._places.counts(self._begin(epoch) + self._length)
        ends = [self._epoch_at(i, max(count - 1, 0)) for i, count in enumerate(last)]
        return {
            "name": self.name,
            "version": _VERSION,
            "length": self._length,
            "ratios": self._ratios,
            "components": [order.identity(end) for order, end in zip(self._components, ends, strict=True)],
        }

    def frozen(self) -> "MixtureOrder":
        """Return this order with components that no later change of weights reaches."""
        kept = copy(self)
        vars(kept).update(_components=tuple(map(frozen, self._components)), _ends=list(self._ends))
        return kept

    def _begin(self, epoch: int) -> int:
        return (epoch - 1) * self._length

    def _stream(self, component: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return ids start..stop-1 of a component's epochs put one after the other."""
        order = self._components[component]
        first, last = self._epoch_at(component, start), self._epoch_at(component, stop - 1)
        ends = self._ends[component]
        parts = [
            order.ids(epoch, max(start - low, 0), min(stop, high) - low)
            for epoch, (low, high) in enumerate(pairwise(ends[first - 1 : last + 1]), first)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _epoch_at(self, component: int, place: int) -> int:
        """Return the epoch of a component in which a place of its stream lies."""
        ends = self._ends[component]
        if ends[-1] <= place:
            ends = ends.copy()  # replaced whole: loaders of several threads may share an order
            while ends[-1] <= place:
                ends.append(ends[-1] + self._components[component].length(len(ends)))
            self._ends[component] = ends
        return bisect_right(ends, place)
