"""Where a training loop stands in its order: the few values that are saved with a model and restored."""

import operator
from typing import Any, Final

from foreshard.errors import ConfigError
from foreshard.loader.dealing import epoch_steps
from foreshard.loader.options import LoaderOptions
from foreshard.loader.order import Order
from foreshard.shards.manifest import Manifest

_VERSION: Final = 2
_REMEDIES: Final = {
    "weights": "call update_weights with the weights saved beside the state (those that its epoch began with, "
    "loader.epoch_order.weights) before load_state_dict",
    "ids": "list the ids that the run was started with",
    "population": "give the order the ids that the run was started with",
}


def write_state(order: Order, manifest: Manifest, options: LoaderOptions, epoch: int, step: int) -> dict[str, Any]:
    """Return a state of O(1) size: what the order depends on, and the next epoch and step.

    After an epoch's last step that is the next epoch's first.
    """
    epoch, step = _next(order, options, epoch, step)
    return {**_run(order, manifest, options), "identity": order.identity(epoch), "epoch": epoch, "step": step}


def read_state(state: dict[str, Any], order: Order, manifest: Manifest, options: LoaderOptions) -> tuple[int, int]:
    """Return the epoch and step to go on from.

    Raises:
        ConfigError: the state is malformed, or of another version, order, snapshot or global batch.
    """
    if state.get("version") == 1:
        raise ConfigError(
            "loader state has version 1, which did not name the order's seed and samples and cannot be checked; begin "
            f"its epoch {state.get('epoch')!r} again with set_epoch"
        )
    for name, mine in _run(order, manifest, options).items():
        if state.get(name) != mine:
            raise ConfigError(
                f"loader state has {name} {state.get(name)!r}, this loader {mine!r}; resuming would change the order "
                "of samples"
            )
    epoch, step = state.get("epoch"), state.get("step")
    if not isinstance(epoch, int) or not isinstance(step, int) or epoch < 1 or step < 0:
        raise ConfigError(f"loader state has epoch {epoch!r} and step {step!r}; give what state_dict() returned")
    epoch, step = _next(order, options, epoch, step)
    _check_identity(state.get("identity"), order.identity(epoch), "order", epoch)
    return epoch, step


def epoch_number(epoch: int) -> int:
    """Return the number of an epoch to start, as a plain int.

    Raises:
        ConfigError: it is no integer, or below 1.
    """
    try:
        number = operator.index(epoch)
    except TypeError as error:
        raise ConfigError(f"epoch {epoch!r} is no integer; epochs count 1, 2, 3, ...") from error
    if number < 1:
        raise ConfigError(f"epoch {number} must be at least 1")
    return number


def _run(order: Order, manifest: Manifest, options: LoaderOptions) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "order": order.name,
        "fingerprint": manifest.header.fingerprint,
        "global_batch": options.global_batch,
        "remainder": options.remainder,
    }


def _next(order: Order, options: LoaderOptions, epoch: int, step: int) -> tuple[int, int]:
    finished = step >= epoch_steps(order.length(epoch), options.global_batch, options.remainder)
    return (epoch + 1, 0) if finished else (epoch, step)


def _check_identity(theirs: object, mine: object, where: str, epoch: int) -> None:
    """Compare two JSON values and name the first place where they differ."""
    if isinstance(theirs, dict) and isinstance(mine, dict):
        for key in [*mine, *(key for key in theirs if key not in mine)]:
            _check_identity(theirs.get(key), mine.get(key), f"{where}.{key}", epoch)
    elif isinstance(theirs, list) and isinstance(mine, list) and len(theirs) == len(mine):
        for i, (their, my) in enumerate(zip(theirs, mine, strict=True)):
            _check_identity(their, my, f"{where}[{i}]", epoch)
    elif theirs != mine:
        key = where.rpartition(".")[2]
        remedy = _REMEDIES.get(key, "build the order with the arguments that the run was started with")
        raise ConfigError(
            f"loader state has {where} {theirs!r} for epoch {epoch}, this loader {mine!r}; resuming would change the "
            f"order of samples: {remedy}"
        )
