"""Traces that the do-no-harm gate is tried on."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from foreshard.access.trace import Trace, equal_starts
from foreshard.forecast.ewma import EwmaForecaster

DATA = Path(__file__).parent.parent / "data"
RIVALS = ("lru", "s3-fifo", "sieve")


def trace_of(objects, windows, count=None):
    objects = np.asarray(objects, np.int32)
    count = int(objects.max()) + 1 if count is None else count
    starts = equal_starts(len(objects), windows)
    return Trace(objects, np.arange(count).astype(object), np.ones(count, np.int64), starts, 1)


def read(name, windows):
    dense = np.unique(pq.read_table(DATA / name).column("object_id").to_numpy(), return_inverse=True)[1]
    return trace_of(dense, windows)


def by_ewma(trace):
    history = trace.history()
    return lambda window: EwmaForecaster().fit(history.until(window)).predict(1).expected[0]


def weighted(seed=0, objects=400, windows=8, length=2000):
    """Draws of which a few objects get most, at rates that stay, with the true rates."""
    rng = np.random.default_rng(seed)
    rates = rng.pareto(1.2, objects) + 0.05
    rates /= rates.sum()
    return trace_of(rng.choice(objects, windows * length, p=rates), windows, objects), rates


def recent(seed=0, windows=10, length=2000):
    """Objects that are new all the time, and wanted again soon or never: no forecast of the next window helps."""
    rng = np.random.default_rng(seed)
    place = np.arange(windows * length) // 4
    return trace_of(np.maximum(place - rng.geometric(0.05, len(place)), 0), windows)
