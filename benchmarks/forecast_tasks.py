"""What the benchmark of forecasts times, each in a process of its own: see `benchmarks.tasks`."""

import time

import numpy as np

from benchmarks.forecast_data import history_of


def backtest_seconds(counts: str, origins: str) -> dict[str, float | str]:
    """Backtest the default forecasters, all on so many origins; return seconds, and the choice.

    The seconds include loading what forecasters import, and LightGBM's processes; loading foreshard itself came before.

    Args:
        counts: file of counts (T, C).
        origins: how many.
    """
    from foreshard.forecast.backtest import backtest
    from foreshard.forecast.registry import default_names

    history = history_of(np.load(counts))
    names = default_names(history)
    began = time.perf_counter()
    tested = backtest(history, names, cache_fraction=0.1, origins=int(origins), scored=int(origins))
    seconds = time.perf_counter() - began
    models = [row for row in tested.summary() if row["status"] != "baseline"]
    assert all(row["origins"] == int(origins) and not row["reason"] for row in models), f"not all took part: {models}"
    return {"seconds": seconds, "chosen": tested.chosen}


def forecaster_seconds(counts: str, name: str) -> float:
    """Fit one forecaster on all windows and forecast the next; return seconds, with the time to load what it imports.

    Args:
        counts: file of counts (T, C).
        name: one of `FORECASTERS`.
    """
    from foreshard.forecast.registry import make_forecasters

    history = history_of(np.load(counts))
    began = time.perf_counter()
    forecast = make_forecasters([name])[name].fit(history).predict(1)
    seconds = time.perf_counter() - began
    assert forecast.expected.shape == (1, history.chunks)
    return seconds
