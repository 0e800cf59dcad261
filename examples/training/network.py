"""What the examples that train with PyTorch share: a small neural network on the flights, and its checkpoints."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch  # noqa: TID253 - an example of training with PyTorch
import torch.distributed as dist  # noqa: TID253
from numpy.typing import NDArray
from torch import Tensor, nn  # noqa: TID253
from torch.nn.functional import binary_cross_entropy_with_logits  # noqa: TID253

from examples.flights.model import COLUMNS, features, labels
from foreshard import Batch

FEATURES = 28

__all__ = ["COLUMNS", "Network", "global_batches", "learn", "predict", "save_checkpoint", "to_examples"]


class Network(nn.Sequential):
    """Two layers from features known at departure to the log-odds of arriving late, the same at every start."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))


def to_examples(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Make of a batch what the network learns from; DataLoader workers call it.

    Returns:
        Design matrix, float32 (b, 28); target, float32 (b,); sample ids, int64 (b,).
    """
    x, y = features(batch), labels(batch)
    return torch.from_numpy(x), torch.from_numpy(y.astype(np.float32)), torch.from_numpy(batch.sample_ids)


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """Take one step; the gradients of a DistributedDataParallel are averaged over the ranks."""
    optimizer.zero_grad()
    binary_cross_entropy_with_logits(model(x), y).backward()
    optimizer.step()


@torch.no_grad()
def predict(model: nn.Module, x: NDArray[np.float32]) -> NDArray[np.int8]:
    """Return whether each flight is likelier late than not, int8 (n,)."""
    return (model(torch.from_numpy(x)) > 0).numpy().astype(np.int8)


def save_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, **rest: Any) -> None:  # noqa: ANN401
    """Write a checkpoint; a process that is killed half-way leaves the one before."""
    partial = path.with_suffix(".partial")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), **rest}, partial)
    partial.replace(path)


def global_batches(mine: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Return the sample ids of global batches from each rank's part of them; all ranks call it. No loader needs it."""
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    # A rank's part of a global batch follows that of the rank before it.
    return [np.concatenate(parts) for parts in zip(*everyone, strict=True)]
