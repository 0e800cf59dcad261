"""Heat of single samples: draws expected of each in the next epoch, also of those that have not been drawn yet."""

import numpy as np
from numpy.typing import NDArray

from foreshard.errors import ConfigError


def sample_heat(counts: NDArray[np.float32], *, draws: float, alpha: float = 0.5) -> NDArray[np.float32]:
    """Return each sample's expected draws in the next epoch.

    Newer epochs weigh more, whatever their length: a first full pass does not outvote the shorter weighted epochs after
    it. What is left is counting noise for the most part, so every rate is drawn towards the mean by empirical Bayes:
    the prior is a gamma distribution whose mean and variance are those of the observed rates, less the variance that
    Poisson counts of equal rates would show (Clayton and Kaldor, Biometrics 43, 1987). Where samples differ no more
    than that - shuffled epochs, say - all get the same heat; and no sample gets none.

    Args:
        counts: shape (E, n), draws per epoch, oldest first. Pass the columns of the samples that can be drawn at all
            (the train split): others would pass for cold ones.
        draws: draws of the next epoch; the heat adds up to it.
        alpha: weight of an epoch against all before it, in (0, 1].

    Returns:
        Shape (n,).

    Raises:
        ConfigError: no sample, negative or infinite counts, or an alpha or number of draws that cannot be.
    """
    if counts.ndim != 2 or not counts.shape[1]:  # noqa: PLR2004 -- (E, n)
        raise ConfigError(f"counts of shape {counts.shape} give no heat; pass (epochs, samples) with samples in it")
    if not 0 < alpha <= 1 or not np.isfinite(draws) or draws < 0:
        raise ConfigError(f"alpha {alpha} must be in (0, 1] and draws {draws} a number of at least 0")
    epochs, n = counts.shape
    if not np.isfinite(counts).all() or (counts < 0).any():
        raise ConfigError("counts hold negative or infinite values; pass draws per epoch and sample")
    totals = counts.sum(axis=1, dtype=np.float64)
    told = totals > 0
    if not told.any():
        return np.full(n, draws / n, np.float32)
    weights = ((1.0 - alpha) ** np.arange(epochs - 1, -1, -1, dtype=np.float64))[told]
    weights /= weights.sum()
    # Every epoch is scaled to the length of the newest one, so that rates are per such epoch.
    scales = totals[told][-1] / totals[told]
    rate = np.zeros(n)
    for weight, row in zip(weights * scales, counts[told], strict=True):
        rate += weight * row
    mean = float(rate.mean())
    # A weighted mean of scaled Poisson counts carries the information of this many epochs like the newest.
    exposure = 1 / float((weights**2 * scales).sum())
    between = float(rate.var()) - mean / exposure
    if between <= 0:
        return np.full(n, draws / n, np.float32)
    prior = mean / between
    heat = (exposure * rate + prior * mean) / (exposure + prior)
    return (heat * (draws / heat.sum())).astype(np.float32)
