"""The series that plots of a forecast draw: arrays only, so that they can be tested and printed without a picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.access.history import History
from foreshard.errors import ConfigError
from foreshard.forecast.metrics import ECE_BINS, Probabilities, calibration_error
from foreshard.forecast.registry import make_forecasters

BASELINES: Final = ("last", "ewma")
"""Forecasters that every hit mass curve shows beside the chosen one."""

ORACLE: Final = "oracle"

_POINTS: Final = 200
_FEW: Final = 200
"""Up to so many chunks, the curve has a point for every cache size."""

_COLUMNS: Final = 120
_Z95: Final = 1.959963984540054


@dataclass(frozen=True)
class Reliability:
    """Forecast probabilities in B non-empty tenths against how often the access came.

    Attributes:
        said: shape (B,), mean forecast probability of the tenth.
        came: shape (B,), share of its forecasts that came true.
        low: shape (B,), lower end of the 95 % interval of `came` by Wilson (JASA 22, 1927), for independent outcomes.
        high: shape (B,), upper end of it.
        size: shape (B,), how many forecasts there are.
        ece: expected calibration error, see `calibration_error`.
    """

    said: NDArray[np.float64]
    came: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    size: NDArray[np.int64]
    ece: float


def reliability(probability: Probabilities, accessed: NDArray[np.bool_]) -> Reliability:
    """Return the calibration curve of forecasts, by tenths of probability.

    Args:
        probability: any shape, in [0, 1].
        accessed: of the same shape, what happened.

    Raises:
        ConfigError: there is no forecast, or the shapes differ.
    """
    if not probability.size or probability.shape != accessed.shape:
        raise ConfigError(
            f"probabilities of shape {probability.shape} and outcomes of shape {accessed.shape} give no calibration "
            "curve; pass one outcome for each of at least one forecast"
        )
    p, y = probability.ravel().astype(np.float64), accessed.ravel()
    bins = np.minimum((p * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    size = np.bincount(bins, minlength=ECE_BINS)
    filled = size > 0
    n = size[filled]
    said = np.bincount(bins, weights=p, minlength=ECE_BINS)[filled] / n
    came = np.bincount(bins, weights=y, minlength=ECE_BINS)[filled] / n
    centre = (came + _Z95**2 / (2 * n)) / (1 + _Z95**2 / n)
    half = _Z95 * np.sqrt(came * (1 - came) / n + _Z95**2 / (4 * n**2)) / (1 + _Z95**2 / n)
    # The interval holds the share itself, also where rounding at 0 or 1 would leave it outside.
    return Reliability(
        said, came, np.minimum(centre - half, came), np.maximum(centre + half, came), n, calibration_error(p, y)
    )


def cache_sizes(chunks: int) -> NDArray[np.int64]:
    """Return the cache sizes of a hit mass curve, in chunks, ascending from 0: all, or about 200 in geometric steps."""
    if chunks <= _FEW:
        return np.arange(chunks + 1)
    return np.unique(np.concatenate([[0], np.round(np.geomspace(1, chunks, _POINTS)).astype(np.int64)]))


def hit_mass_curve(
    expected: NDArray[np.float64], actual: NDArray[np.float64], sizes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the share of accesses that falls on the chunks ranked highest, for each cache size.

    Args:
        expected: shape (C,), what chunks are ranked by; ties by number.
        actual: shape (C,), accesses as they came.
        sizes: shape (K,), chunks in the cache, 0..C.

    Returns:
        Shape (K,), in [0, 1]; zeros where there was no access at all.
    """
    mass = np.concatenate([[0.0], np.cumsum(actual[np.argsort(-expected, kind="stable")])])
    return mass[sizes] / max(float(mass[-1]), 1.0)


def baseline_forecasts(history: History, horizon: int) -> dict[str, NDArray[np.float64]]:
    """Return what the baselines expect of a history's last windows from those before: shape (C,) each, by name.

    Args:
        history: more than `horizon` windows.
        horizon: windows to be forecast.
    """
    past = history.until(history.windows - horizon)
    made = make_forecasters(BASELINES)
    return {name: forecaster.fit(past).predict(horizon).expected.sum(0) for name, forecaster in made.items()}


def hit_mass_curves(
    expected: Mapping[str, NDArray[np.float64]], actual: NDArray[np.float64], sizes: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """Return the hit mass curve of every forecast and, last, of the oracle that knew the accesses."""
    curves = {name: hit_mass_curve(each, actual, sizes) for name, each in expected.items()}
    return {**curves, ORACLE: hit_mass_curve(actual, actual, sizes)}


def over_time(counts: NDArray[np.float64], most: int = _COLUMNS) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return counts per window with neighbouring windows averaged until there are at most so many columns.

    Args:
        counts: shape (T, K).
        most: columns that can be told apart.

    Returns:
        Means of shape (K, min(T, most)), and the first window of each column with T at the end.
    """
    windows = len(counts)
    edges = np.arange(min(windows, most) + 1) * windows // max(1, min(windows, most))
    summed = np.add.reduceat(counts, edges[:-1], axis=0) if windows else counts
    return (summed / np.diff(edges)[:, None]).T, edges
