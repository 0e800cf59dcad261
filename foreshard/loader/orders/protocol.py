"""What every sample order offers a loader."""

from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from foreshard.errors import ConfigError

_HAS: Final = ("name", "fixed", "length", "ids", "identity")


class Order(Protocol):
    """A sequence of sample ids per epoch with random access.

    An order is a function of its arguments, the epoch and, where it has weights, the weights in force alone. It knows
    no chunk, shard, node, rank or worker.
    """

    @property
    def name(self) -> str:
        """The order's name, kept in a loader's state."""
        ...

    @property
    def fixed(self) -> bool:
        """Whether the ids of all later epochs are determined already, so that they may be read ahead.

        False where weights may still change before an epoch begins. Such an order should have a method `frozen`, which
        returns a copy that no later change reaches: an epoch that has begun is read by that. Without it a change in the
        middle of an epoch is refused.
        """
        ...

    def length(self, epoch: int) -> int:
        """Number of ids in an epoch (epochs count from 1)."""
        ...

    def ids(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return the sample ids at positions start..stop-1 of an epoch; int64, shape (stop - start,)."""
        ...

    def identity(self, epoch: int) -> dict[str, Any]:
        """Return all that an epoch's ids depend on, as a JSON object of O(1) size.

        Two orders whose identities are equal give the same ids in the epoch. It holds at least `name`, `version` (of
        the algorithm) and `length`.
        """
        ...


def check_order(order: Order, what: str) -> Order:
    """Return an order, or refuse what is none, such as the ids themselves.

    Args:
        order: the argument.
        what: its name, for the error's message.

    Raises:
        ConfigError: it lacks something that an `Order` has.
    """
    given: object = order
    if isinstance(given, type) or not all(hasattr(given, name) for name in _HAS):
        kind = f"the class {given.__name__}" if isinstance(given, type) else f"of type {type(given).__name__}"
        raise ConfigError(
            f"{what} is {kind}, which is no order; give one, such as UniformOrder(ids, seed=1), or ListedOrder(ids) to "
            "read ids in the sequence they have"
        )
    return order


def frozen(order: Order) -> Order:
    """Return an order that no later change of weights reaches.

    An order that is not `fixed` gives it by a method `frozen`; one without is returned itself, as are fixed ones.
    """
    freeze = None if order.fixed else getattr(order, "frozen", None)
    return order if freeze is None else freeze()
