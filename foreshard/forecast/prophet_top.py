"""Prophet for single chunks that someone names: the few hottest, say, where the cost of a fit each is worth it."""

from collections.abc import Sequence
from typing import Any, Final, Self

import numpy as np

from foreshard.access.history import History
from foreshard.errors import ConfigError
from foreshard.forecast.base import Forecast, count_forecast, require_windows
from foreshard.forecast.ewma import EwmaForecaster
from foreshard.forecast.grouped_prophet import fit_total, predict_total, quiet

MOST_CHUNKS: Final = 500
"""A fit costs 30 to 60 ms (research/forecast.md §2b)."""


class TopProphetForecaster:
    """A Prophet for each chunk of a list, the moving average for all others; never below 0.

    Args:
        chunks: chunk ids, distinct, at most `MOST_CHUNKS`.

    Raises:
        ConfigError: no chunk, too many, or one given twice.
    """

    name = "prophet-top"
    min_windows = 8

    def __init__(self, chunks: Sequence[int]) -> None:
        if not 0 < len(chunks) <= MOST_CHUNKS or len(set(chunks)) != len(chunks):
            raise ConfigError(
                f"{len(chunks)} chunks, {len(set(chunks))} of them distinct, cannot have a Prophet each; name 1 to "
                f"{MOST_CHUNKS} different ones, or use 'prophet', which groups them"
            )
        self._chunks = np.array(chunks, np.int64)

    def fit(self, history: History) -> Self:
        """Fit the moving average and the named chunks.

        Raises:
            ConfigError: too short a history, or it has no such chunk.
        """
        require_windows(self.name, self.min_windows, history)
        least, most = int(self._chunks.min()), int(self._chunks.max())
        if least < 0 or most >= history.chunks:
            raise ConfigError(f"chunks {least}..{most} are named, and the history has 0..{history.chunks - 1}")
        self._windows = history.windows
        self._level = EwmaForecaster().fit(history)
        with quiet():
            self._models: list[Any] = [
                fit_total(history.counts[:, chunk], history.phases_per_epoch) for chunk in self._chunks
            ]
        return self

    def predict(self, horizon: int) -> Forecast:
        """Return the chunks' forecasts, clipped at 0, among the moving average's."""
        expected = self._level.predict(horizon).expected
        with quiet():
            for chunk, model in zip(self._chunks, self._models, strict=True):
                expected[:, chunk] = np.maximum(predict_total(model, self._windows, horizon), 0.0)
        return count_forecast(expected, self._level.smoothing.dispersion, self.name)
