"""A small neural network on the flights, for the examples that train with PyTorch."""

import numpy as np
import torch  # noqa: TID253 - an example of training with PyTorch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score  # noqa: TID253
from torch import Tensor, nn  # noqa: TID253

from examples.flights.model import COLUMNS, features, labels
from foreshard import Batch

FEATURES = 28

__all__ = ["COLUMNS", "Network", "auc", "to_examples"]


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


@torch.no_grad()
def auc(model: nn.Module, x: NDArray[np.float32], y: NDArray[np.int8]) -> float:
    """Return the area under the ROC curve; half is chance."""
    return float(roc_auc_score(y, model(torch.from_numpy(x)).numpy()))
