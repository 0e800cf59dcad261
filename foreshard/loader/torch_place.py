"""This process's place among those that train together, as PyTorch or `torchrun` tells it."""

import os
from typing import Any

import torch  # noqa: TID253 - only who trains with PyTorch imports this module

from foreshard.errors import ConfigError
from foreshard.loader.dealing import Place


def distributed_place() -> Place:
    """Return this process's rank and world size, without any collective.

    They come from `torch.distributed` where a process group exists, else from RANK and WORLD_SIZE as `torchrun` sets
    them, else this is the only process.

    Raises:
        ConfigError: the environment gives one of the two alone, or no numbers.
    """
    distributed: Any = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return Place(distributed.get_rank(), distributed.get_world_size())
    rank, world = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None and world is None:
        return Place()
    try:
        return Place(int(rank or ""), int(world or ""))
    except ValueError as error:
        raise ConfigError(
            f"RANK={rank!r} and WORLD_SIZE={world!r} in the environment are no rank and world size; set both as "
            "torchrun does, or neither"
        ) from error
