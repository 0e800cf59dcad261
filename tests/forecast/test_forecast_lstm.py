import importlib.util

import numpy as np
import pytest
from forecast_world import history_of, popularity

from foreshard.errors import ConfigError, DeadlineError
from foreshard.forecast.base import why_not
from foreshard.forecast.ewma import EwmaForecaster
from foreshard.forecast.lstm import LstmForecaster


def test_the_network_learns_repeats_itself_and_leaves_unread_chunks_alone():
    # Half of the chunks are read in even windows, half in odd ones: no average sees it.
    on = (np.arange(17)[:, None] + np.arange(400)[None, :]) % 2 == 0
    counts = np.random.default_rng(1).poisson(np.where(on, 20.0, 0.2))
    counts[:, :5] = 0
    history, truth = history_of(counts[:16], 1), counts[16]
    one, two = (LstmForecaster().fit(history).predict(2) for _ in range(2))
    level = EwmaForecaster().fit(history).predict(2)
    assert np.abs(one.expected[0] - truth).mean() < 0.7 * np.abs(level.expected[0] - truth).mean()
    assert np.square(one.probability[0] - (truth > 0)).mean() < 0.1
    for field in ("expected", "probability", "lower", "upper"):
        assert np.array_equal(getattr(one, field), getattr(two, field))
        assert np.isfinite(getattr(one, field)).all()
        assert getattr(one, field)[:, :5].max() == 0
    assert ((one.lower <= one.expected) & (one.expected <= one.upper)).all()


def test_phases_are_an_input_where_there_are_any():
    history, _ = popularity(chunks=30, windows=12)
    forecast = LstmForecaster().fit(history).predict(4)
    level = EwmaForecaster().fit(history).predict(4)
    assert forecast.expected == pytest.approx(level.expected, rel=0.5)


def test_a_late_network_is_given_up():
    with pytest.raises(DeadlineError, match=r"lstm_worker did not finish within 0\.05 s"):
        LstmForecaster(seconds=0.05).fit(popularity(chunks=5)[0])


def test_without_torch_it_abstains_and_names_the_fix(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else found(name))
    history, _ = popularity(chunks=5)
    assert why_not(LstmForecaster(), history) == "torch is not installed: pip install 'foreshard[torch]'"
    with pytest.raises(
        ConfigError, match=r"'lstm' is not available: torch is not installed: pip install 'foreshard\[t"
    ):
        LstmForecaster().fit(history)
