"""The process that trains `lstm`: `python -m foreshard.forecast.lstm_worker IN OUT`. The only one with torch in it."""

import sys
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from foreshard.access.history import History
from foreshard.forecast.child import Arrays, serve, unpacked
from foreshard.forecast.ewma import EwmaForecaster
from foreshard.forecast.features import LEAST_DEPTH, LEVEL, View, features, view_of

LENGTH: Final = 16
CELLS: Final = 32
SEQUENCES: Final = 60_000
_TARGETS: Final = 3
_PASSES: Final = 4
_MOST_PASSES: Final = 40
_LEAST_STEPS: Final = 300
_BATCH: Final = 512
_BLOCK: Final = 1 << 14
_SEED: Final = 3
_LARGEST: Final = 3.0
"""The network moves no logarithm of a count, and no log odds, by more than this."""


def work(arrays: dict[str, NDArray[Any]]) -> Arrays:
    """Return each chunk's correction: `growth`, shape (C,), of the log count, and `shift` of the log odds."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(_SEED)
    history = unpacked(arrays)
    smoothing = EwmaForecaster().fit(history).smoothing
    # Every phase must be a target, or the network makes something up for those that are not.
    targets = min(max(_TARGETS, history.phases_per_epoch), history.windows - LEAST_DEPTH)
    length = min(LENGTH, history.windows - targets)
    view = view_of(history, length, seasonal=False, smoothing=smoothing)
    network = _Network(torch, 4 if history.phases_per_epoch > 1 else 2)
    _train(torch, network, history, view, targets)
    correction = np.zeros((2, history.chunks))
    read = np.flatnonzero((history.counts > 0).any(0))
    with torch.no_grad():
        for first in range(0, len(read), _BLOCK):
            block = read[first : first + _BLOCK]
            sequences = torch.from_numpy(_sequences(history, history.windows, block, view))
            correction[:, block] = network(sequences).numpy().T
    return {"growth": correction[0], "shift": correction[1]}


class _Network:
    """An LSTM and a linear head that starts as no correction at all."""

    def __init__(self, torch: Any, inputs: int) -> None:  # noqa: ANN401 -- imported late
        self._torch = torch
        self._cells: Any = torch.nn.LSTM(inputs, CELLS, batch_first=True)
        self._head: Any = torch.nn.Linear(CELLS, 2)
        torch.nn.init.zeros_(self._head.weight)
        torch.nn.init.zeros_(self._head.bias)

    def parameters(self) -> list[Any]:
        return [*self._cells.parameters(), *self._head.parameters()]

    def __call__(self, sequences: Any) -> Any:  # noqa: ANN401 -- tensors
        states, _ = self._cells(sequences)
        return _LARGEST * self._torch.tanh(self._head(states[:, -1]) / _LARGEST)


def _train(torch: Any, network: _Network, history: History, view: View, targets: int) -> None:  # noqa: ANN401
    """Minimise the Poisson deviance per expected draw and the log loss of an access, on the newest windows."""
    draw = np.random.default_rng(_SEED)
    origins = range(history.windows - targets, history.windows)
    parts = [_examples(history, origin, view, draw, SEQUENCES // targets) for origin in origins]
    sequences, level, odds, count = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*parts, strict=True))
    # A large epsilon keeps rounding errors from growing to full steps where there is nothing to learn.
    optimiser: Any = torch.optim.Adam(network.parameters(), lr=5e-3, eps=1e-5)
    rows = len(sequences)
    for _ in range(max(_PASSES, min(_MOST_PASSES, _LEAST_STEPS * _BATCH // rows))):
        for batch in torch.from_numpy(draw.permutation(rows)).split(_BATCH):
            correction = network(sequences[batch])
            expected = level[batch] * torch.exp(correction[:, 0])
            # Divided by the level, a hot chunk counts as much as a cold one.
            deviance = ((expected - count[batch] * correction[:, 0]) / (1.0 + level[batch])).mean()
            judged: Any = torch.nn.functional.binary_cross_entropy_with_logits(
                odds[batch] + correction[:, 1], (count[batch] > 0).float()
            )
            optimiser.zero_grad()
            (deviance + judged).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()


def _examples(
    history: History, origin: int, view: View, draw: np.random.Generator, most: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return sequences, levels, log odds and counts of at most `most` chunks known at an origin."""
    chunks = np.flatnonzero((history.counts[:origin] > 0).any(0))
    if len(chunks) > most:
        chunks = np.sort(draw.choice(chunks, most, replace=False))
    columns, level = features(history, origin, 1, chunks, view)
    count = history.counts[origin, chunks].astype(np.float32)
    return _sequences(history, origin, chunks, view), level.astype(np.float32), columns[:, LEVEL], count


def _sequences(history: History, origin: int, chunks: NDArray[np.int64], view: View) -> NDArray[np.float32]:
    """Return the windows before an origin, shape (n, L, inputs): log count, access, and where in the epoch."""
    counts = history.counts[origin - view.depth : origin, chunks].T
    inputs = [np.log1p(counts), counts > 0]
    if history.phases_per_epoch > 1:
        following = history.phases[origin - view.depth : origin].astype(np.float64) + 1
        angle = np.broadcast_to(2 * np.pi * following / history.phases_per_epoch, counts.shape)
        inputs += [np.sin(angle), np.cos(angle)]
    return np.stack(inputs, axis=2).astype(np.float32)


if __name__ == "__main__":
    serve(sys.argv[1:], work)
