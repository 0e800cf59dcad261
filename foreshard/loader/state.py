"""Where a training loop stands in its order: the few numbers that are saved with a model and restored."""

from typing import Any, Final

from foreshard.errors import ConfigError
from foreshard.loader.dealing import epoch_steps
from foreshard.loader.options import LoaderOptions
from foreshard.loader.order import Order
from foreshard.shards.manifest import Manifest

_VERSION: Final = 1


def write_state(order: Order, manifest: Manifest, options: LoaderOptions, epoch: int, step: int) -> dict[str, Any]:
    """Return a state of O(1) size: what the order depends on, and the next epoch and step."""
    return {**_identity(order, manifest, options), "epoch": epoch, "step": step}


def read_state(state: dict[str, Any], order: Order, manifest: Manifest, options: LoaderOptions) -> tuple[int, int]:
    """Return the epoch and step to go on from.

    Raises:
        ConfigError: the state is malformed, or of another order, snapshot or global batch.
    """
    for name, mine in _identity(order, manifest, options).items():
        if state.get(name) != mine:
            raise ConfigError(
                f"loader state has {name} {state.get(name)!r}, this loader {mine!r}; resuming would change the order "
                "of samples"
            )
    epoch, step = state.get("epoch"), state.get("step")
    if not isinstance(epoch, int) or not isinstance(step, int) or epoch < 1 or step < 0:
        raise ConfigError(f"loader state has epoch {epoch!r} and step {step!r}; give what state_dict() returned")
    finished = step >= epoch_steps(order.length(epoch), options.global_batch, options.remainder)
    return (epoch + 1, 0) if finished else (epoch, step)


def _identity(order: Order, manifest: Manifest, options: LoaderOptions) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "order": order.name,
        "fingerprint": manifest.header.fingerprint,
        "global_batch": options.global_batch,
        "remainder": options.remainder,
    }
