"""Synthetic access histories with known truth, for the tests of the forecast package."""

import numpy as np

from foreshard.access.history import History


def history_of(counts, phases=4):
    counts = np.asarray(counts, np.float64)
    window = np.arange(len(counts))
    return History(counts, (window // phases + 1).astype(np.int32), (window % phases).astype(np.int16), phases)


def popularity(chunks=200, windows=16, phases=4, seed=0, rate=20.0, growth=0.0):
    """Importance sampling: heavy-tailed rates that drift steadily, Poisson draws. Returns the history and the rates."""
    rng = np.random.default_rng(seed)
    base = rate * (rng.pareto(1.5, chunks) + 0.05)
    drift = rng.normal(0, growth, chunks) if growth else np.zeros(chunks)
    rates = base * np.exp(np.outer(np.arange(windows + phases), drift))
    return history_of(rng.poisson(rates[:windows]), phases), rates


def sweep(chunks=40, epochs=4, phases=4, draws=50.0):
    """A sequential reader: chunk c is read in the same phase of every epoch, and in no other."""
    epoch = np.zeros((phases, chunks))
    epoch[np.arange(chunks) * phases // chunks, np.arange(chunks)] = draws
    return history_of(np.tile(epoch, (epochs, 1)), phases)


def shuffled(chunks=60, rows=25, epochs=4, phases=4, seed=0):
    """Uniform shuffled epochs: every sample once an epoch, at a random time."""
    rng = np.random.default_rng(seed)
    chunk_of = np.repeat(np.arange(chunks), rows)
    counts = [
        np.bincount(part, minlength=chunks)
        for _ in range(epochs)
        for part in np.array_split(chunk_of[rng.permutation(len(chunk_of))], phases)
    ]
    return history_of(counts, phases)
