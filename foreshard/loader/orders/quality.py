"""How thoroughly an order shuffles, measured on a sample of it."""

from dataclasses import dataclass

import numpy as np

from foreshard.arguments import whole_number
from foreshard.errors import ConfigError
from foreshard.loader.orders.protocol import Order
from foreshard.seeding import derive_seed, uniforms


@dataclass(frozen=True)
class ShuffleQuality:
    """Figures of an epoch, each about 1 for a uniform shuffle and 0 for the ids in sequence.

    Near ids stand for samples that are alike, as they are in sources written by time, class or file.

    Attributes:
        neighbour_distance: mean distance between the ids of consecutive samples, in units of that between samples at
            places drawn at random. It tells whether consecutive samples are alike.
        batch_diversity: how many independent samples a batch is worth, as a share of its size: the variance that the
            mean id of `batch` independent samples would have, by the variance that the batches' mean ids do have. It
            tells whether whole batches are alike, which a shuffle within a small window leaves so. Above 1, batches
            are more even than chance makes them.
        batch: consecutive samples per batch looked at.
        batches: batches looked at; the figures' standard error is about sqrt(2 / batches).
    """

    neighbour_distance: float
    batch_diversity: float
    batch: int
    batches: int


def shuffle_quality(order: Order, epoch: int, *, batch: int = 64, batches: int = 512) -> ShuffleQuality:
    """Measure how thoroughly an order shuffles an epoch, from batches * batch of its ids.

    Args:
        order: the order.
        epoch: the epoch, from 1.
        batch: consecutive samples that are compared.
        batches: how many runs of that many samples are read, spread evenly over the epoch.

    Raises:
        ConfigError: batch or batches is below 2, or the epoch is shorter than four batches.
    """
    epoch, batch, batches = (
        whole_number(value, name) for value, name in ((epoch, "epoch"), (batch, "batch"), (batches, "batches"))
    )
    length = order.length(epoch)
    if min(batch, batches) < 2:  # noqa: PLR2004 - neither one sample nor one batch differs from anything
        raise ConfigError(f"batch {batch} and batches {batches} must be at least 2")
    if length < 4 * batch:
        raise ConfigError(f"an epoch of {length} samples is too short for batches of {batch}; give a smaller batch")
    seed = derive_seed(purpose="shuffle_quality", epoch=epoch, batch=batch)
    strata = (np.arange(batches) + uniforms(seed, np.arange(batches, dtype=np.int64))) / batches
    starts = (strata * (length - batch + 1)).astype(np.int64).tolist()
    ids = np.stack([order.ids(epoch, start, start + batch) for start in starts]).astype(np.float64)
    variance = float(ids.var())
    if not variance:
        return ShuffleQuality(0.0, 0.0, batch, batches)
    near = np.abs(np.diff(ids, axis=1)).mean()
    # Each sample against the same place of every other batch, by sorting: the mean distance of random pairs.
    ranked = np.sort(ids.ravel())
    weights = 2 * np.arange(len(ranked)) - (len(ranked) - 1)
    far = 2 * float((ranked / len(ranked) * weights).sum()) / (len(ranked) - 1)
    # A batch out of an epoch without replacement varies a little less than independent draws.
    expected = variance / batch * (length - batch) / (length - 1)
    worth = expected * batch / max(float(ids.mean(axis=1).var(ddof=1)), expected / batch)
    return ShuffleQuality(float(near / far), max(float((worth - 1) / (batch - 1)), 0.0), batch, batches)
