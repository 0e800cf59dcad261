"""From a history to the ranked list of chunks that the next layout and the prefetch manifests are made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.access.history import History
from foreshard.errors import ConfigError, LogError
from foreshard.forecast.backtest import MIN_WINDOWS, Backtest, backtest
from foreshard.forecast.base import Forecast
from foreshard.forecast.registry import default_names, make_forecasters
from foreshard.forecast.sampling import sampled

FORECAST_SCHEMA: Final = pa.schema(
    [
        ("chunk", pa.int32()),
        ("expected", pa.float64()),
        ("probability", pa.float64()),
        ("next_probability", pa.float64()),
        ("lower", pa.float64()),
        ("upper", pa.float64()),
        ("first_phase", pa.int16()),
        ("rank", pa.int32()),
        ("model", pa.string()),
    ]
)
"""One row per chunk, hottest first: draws expected in the next epoch with bounds, the probabilities of at least one in
the next epoch and in its first phase, and the phase by which the first one is due. The next epoch is a whole one: where
the history ends in mid-epoch, what is left of that one is passed over."""

_WITHOUT_BACKTEST: Final = "ewma"


@dataclass(frozen=True)
class ForecastResult:
    """A ranked forecast of the next epoch and how far to trust it.

    Attributes:
        table: rows of `FORECAST_SCHEMA`.
        backtest: scores of all models; None where the history is too short for one.
        chosen: the model that made the forecast.
        error: of its expected counts where that is known, in [0, 1]; 1 without a backtest.
        note: what is particular about the forecast, such as members an ensemble had to do without; or empty.
        by_phase: float64 (P, C), draws expected of every chunk in each phase of the next epoch.
    """

    table: pa.Table
    backtest: Backtest | None
    chosen: str
    error: float
    note: str = ""
    by_phase: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))


def forecast_chunks(history: History, *, cache_fraction: float, names: Sequence[str] | None = None) -> ForecastResult:
    """Choose a forecaster by backtest, fit it on the whole history and rank the chunks for the next epoch.

    The backtest is of 200,000 chunks at most, see `sampled`.

    Args:
        history: accesses so far, on the layout whose chunks are to be ranked.
        cache_fraction: share of the chunks that fit into the cache, in (0, 1].
        names: forecasters to choose from, `default_names` unless given; with fewer than three windows it is always
            `ewma`.

    Raises:
        LogError: the history is empty.
        ConfigError: see `backtest`.
    """
    names = names if names is not None else default_names(history)
    make_forecasters(names)
    if not history.windows or not history.chunks:
        raise LogError(
            f"the history has {history.windows} windows of {history.chunks} chunks: there is nothing to forecast from; "
            "use a uniform forecast until an epoch is logged"
        )
    tested = None
    if history.windows >= MIN_WINDOWS:
        tested = backtest(sampled(history), names, cache_fraction=cache_fraction)
    chosen = tested.chosen if tested else _WITHOUT_BACKTEST
    left = -history.next_phase % history.phases_per_epoch
    # Of what the model has learnt, nothing is held any more while chunks are ranked.
    forecast = _after(make_forecasters([chosen])[chosen].fit(history).predict(left + history.phases_per_epoch), left)
    table = rank_chunks({chosen: forecast}, tested, history.phases_per_epoch)
    error = tested.error if tested else 1.0
    return ForecastResult(table, tested, chosen, error, forecast.note, forecast.expected[: history.phases_per_epoch])


def forecast_phases(history: History, phases: int, result: ForecastResult) -> pa.Table:
    """Rank the chunks for the next phases, from the end of the history on, whether that is in mid-epoch or not.

    Args:
        history: what `result` was made from.
        phases: how many phases ahead, at least 1.
        result: what `forecast_chunks` made: its model is fitted once more, and calibrated as it says.

    Returns:
        Rows of `FORECAST_SCHEMA` in which these phases stand for the next epoch: `first_phase` is counted from now.

    Raises:
        ConfigError: there is no phase to look ahead.
    """
    if phases < 1:
        raise ConfigError(f"{phases} phases ahead cannot be forecast; ask for at least 1")
    forecast = make_forecasters([result.chosen])[result.chosen].fit(history).predict(phases)
    return rank_chunks({result.chosen: forecast}, result.backtest, phases)


def _after(forecast: Forecast, skipped: int) -> Forecast:
    """The forecast without its first windows."""
    return replace(
        forecast,
        expected=forecast.expected[skipped:],
        probability=forecast.probability[skipped:],
        lower=forecast.lower[skipped:],
        upper=forecast.upper[skipped:],
    )


def rank_chunks(forecast_by_model: Mapping[str, Forecast], tested: Backtest | None, phases: int) -> pa.Table:
    """Rank chunks by the draws expected of them in the next epoch: never by probability, which saturates at the head.

    Bounds of the epoch are the sums of the phases' bounds, as errors of a level go the same way in every phase; where
    they do not, the interval is too wide rather than too narrow. Ties are broken by chunk id.

    Args:
        forecast_by_model: forecasts that begin with the next epoch's first phase.
        tested: says which one to use and how to calibrate it; None if there is only one.
        phases: windows of an epoch.

    Returns:
        Rows of `FORECAST_SCHEMA`, by rank.

    Raises:
        ConfigError: the chosen forecast is not there, several without a backtest, or shorter than an epoch.
    """
    if tested is None and len(forecast_by_model) != 1:
        raise ConfigError(f"forecasts {sorted(forecast_by_model)} need a backtest to choose from; pass one, or it")
    model = tested.chosen if tested else next(iter(forecast_by_model))
    if model not in forecast_by_model:
        raise ConfigError(f"the chosen model {model!r} is not among the forecasts {sorted(forecast_by_model)}")
    forecast = forecast_by_model[model]
    if len(forecast.expected) < phases:
        raise ConfigError(f"the forecast by {model!r} has {len(forecast.expected)} windows, an epoch {phases}")
    probability = forecast.probability[:phases]
    if tested and tested.calibration:
        probability = tested.calibration.apply(probability)
    expected = forecast.expected[:phases].sum(0)
    # Probability of a first draw up to each phase; the last row is that of any draw.
    by_then = 1.0 - np.cumprod(1.0 - probability, axis=0)
    due = (by_then >= 0.5 * by_then[-1]).argmax(0)
    order = np.argsort(-expected, kind="stable")
    columns: dict[str, Any] = {
        "chunk": order.astype(np.int32),
        "expected": expected[order],
        "probability": by_then[-1][order],
        "next_probability": probability[0][order],
        "lower": forecast.lower[:phases].sum(0)[order],
        "upper": forecast.upper[:phases].sum(0)[order],
        "first_phase": due[order].astype(np.int16),
        "rank": np.arange(len(order), dtype=np.int32),
        "model": pa.repeat(pa.scalar(model), len(order)),
    }
    return pa.table([columns[field.name] for field in FORECAST_SCHEMA], schema=FORECAST_SCHEMA)
