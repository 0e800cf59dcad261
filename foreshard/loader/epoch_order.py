"""An epoch's order, which stays as it was when the epoch began, whatever happens to weights meanwhile.

Otherwise what a loader yields would depend on how far its threads and workers had read ahead when the weights changed,
and a state could not tell which samples are left.
"""

from dataclasses import dataclass
from typing import Any

from foreshard.errors import ConfigError
from foreshard.loader.orders.protocol import Order, frozen


@dataclass(frozen=True)
class EpochOrder:
    """The order of an epoch that has begun.

    Attributes:
        epoch: the epoch.
        order: its order, which no change of weights reaches.
        identity: the order's identity as the epoch began; None for an order that cannot change.
    """

    epoch: int
    order: Order
    identity: dict[str, Any] | None

    @classmethod
    def begin(cls, order: Order, epoch: int) -> "EpochOrder":
        """Keep an order as it is now, for the epoch that begins."""
        kept = frozen(order)
        return cls(epoch, kept, None if kept.fixed else kept.identity(epoch))

    def check(self) -> None:
        """Refuse an order that changed all the same, as one of the user's own without `frozen` may.

        Raises:
            ConfigError: it changed.
        """
        if self.identity is not None and self.order.identity(self.epoch) != self.identity:
            raise ConfigError(
                f"order {self.order.name!r} changed in the middle of epoch {self.epoch}; change it between epochs, or "
                "give its class a method frozen() that returns a copy which later changes do not reach"
            )


class Standing:
    """Where a training loop stands in an order.

    Attributes:
        order: the order, whose weights may change.
    """

    order: Order
    _epoch: int = 1
    _step: int = 0
    _begun: EpochOrder | None = None

    @property
    def epoch_order(self) -> Order:
        """The current epoch's order: in the middle of it as it was when the epoch began. A state tells of this one.

        Raises:
            ConfigError: it changed all the same.
        """
        begun = self._begun
        if begun is None or not self._step or begun.epoch != self._epoch:
            return self.order
        begun.check()
        return begun.order

    def begin_epoch(self) -> EpochOrder:
        """Return the current epoch's order; at the epoch's first step it is kept as it is now."""
        begun = self._begun
        if begun is None or not self._step or begun.epoch != self._epoch:
            self._begun = begun = EpochOrder.begin(self.order, self._epoch)
        begun.check()
        return begun

    def _stand(self, epoch: int, step: int) -> None:
        """Go on elsewhere; in the middle of an epoch under the order as it is now."""
        self._epoch, self._step = epoch, step
        self._begun = EpochOrder.begin(self.order, epoch) if step else None
