"""Pictures of a forecast show the forecast: their series follow the data, and any history can be drawn."""

import numpy as np
import pytest
from forecast_world import history_of, popularity, shuffled
from hypothesis import given
from hypothesis import strategies as st

from foreshard.errors import ConfigError
from foreshard.forecast.curves import cache_sizes, hit_mass_curve, hit_mass_curves, over_time, reliability
from foreshard.forecast.metrics import hit_mass
from foreshard.forecast.plots import (
    LARGE_DPI,
    calibration_figure,
    forecast_plots,
    hit_mass_figure,
    plot_labels,
    top_chunks_figure,
)
from foreshard.forecast.ranking import forecast_chunks
from foreshard.forecast.trials import HeldOut

MODELS = ("last", "ewma", "ensemble")


def held_out(chunks=40, seed=0):
    """A forecast that is known to be calibrated, and a history that ends with what came of it."""
    rng = np.random.default_rng(seed)
    probability = rng.random((1, chunks))
    accessed = rng.random((1, chunks)) < probability
    counts = np.vstack([rng.poisson(2.0, (5, chunks)), accessed])
    return HeldOut(probability[0], accessed[0].astype(float), probability, accessed), history_of(counts, phases=1)


def lines_of(axes):
    return {line.get_label().partition(":")[0]: line.get_ydata() for line in axes.lines}


# -- series --------------------------------------------------------------------------------------------


def test_reliability_of_known_forecasts():
    probability = np.array([0.05, 0.05, 0.95, 0.95, 0.95, 0.95])
    curve = reliability(probability, np.array([False, False, True, True, True, False]))
    assert curve.said == pytest.approx([0.05, 0.95])
    assert curve.came == pytest.approx([0.0, 0.75])
    assert curve.size.tolist() == [2, 4]
    assert curve.ece == pytest.approx((2 * 0.05 + 4 * 0.2) / 6)


def test_calibrated_forecasts_lie_within_their_intervals():
    rng = np.random.default_rng(1)
    probability = rng.random(200_000)
    curve = reliability(probability, rng.random(200_000) < probability)
    assert len(curve.said) == 10
    assert ((curve.low <= curve.said) & (curve.said <= curve.high)).sum() >= 9
    assert curve.ece < 0.01


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50))
def test_reliability_holds_every_forecast_and_stays_within_bounds(pairs):
    curve = reliability(np.array([p for p, _ in pairs]), np.array([y for _, y in pairs]))
    assert curve.size.sum() == len(pairs)
    assert (curve.said * curve.size).sum() == pytest.approx(sum(p for p, _ in pairs))
    assert (curve.came * curve.size).sum() == pytest.approx(sum(y for _, y in pairs))
    assert (curve.low >= -1e-12).all()
    assert (curve.high <= 1 + 1e-12).all()
    assert (curve.low <= curve.came).all()
    assert (curve.came <= curve.high).all()
    assert 0 <= curve.ece <= 1


def test_no_forecast_has_no_calibration_curve():
    with pytest.raises(ConfigError, match=r"\(0,\).*pass one outcome"):
        reliability(np.empty(0), np.empty(0, bool))
    with pytest.raises(ConfigError, match=r"\(2,\).*\(3,\)"):
        reliability(np.zeros(2), np.zeros(3, bool))


@given(st.integers(1, 300_000))
def test_cache_sizes_reach_from_nothing_to_everything(chunks):
    sizes = cache_sizes(chunks)
    assert sizes[0] == 0
    assert sizes[-1] == chunks
    assert (np.diff(sizes) > 0).all()
    assert len(sizes) <= 202


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=40), st.floats(0.01, 1), st.data()
)
def test_hit_mass_curves_agree_with_the_score_and_none_beats_the_oracle(pairs, fraction, data):
    expected, actual = np.array(pairs, float).T
    sizes = cache_sizes(len(actual))
    curves = hit_mass_curves({"model": expected}, actual, sizes)
    assert (curves["model"] <= curves["oracle"] + 1e-12).all()
    assert (np.diff(curves["model"]) >= 0).all()
    if actual.any():
        fits = int(np.ceil(round(fraction * len(actual), 9)))
        assert curves["model"][fits] == pytest.approx(hit_mass(expected, actual, fraction))
        assert curves["model"][-1] == pytest.approx(1)
    shuffle = data.draw(st.permutations(range(len(actual))))
    assert hit_mass_curve(actual[shuffle], actual[shuffle], sizes) == pytest.approx(curves["oracle"])


def test_neighbouring_windows_are_averaged_where_there_are_too_many():
    counts = np.arange(12.0).reshape(6, 2)
    shown, edges = over_time(counts, most=3)
    assert edges.tolist() == [0, 2, 4, 6]
    assert shown.tolist() == [[1, 5, 9], [2, 6, 10]]
    few, edges = over_time(counts, most=6)
    assert few.tolist() == counts.T.tolist()
    assert edges.tolist() == list(range(7))


# -- figures -------------------------------------------------------------------------------------------


def test_the_calibration_figure_shows_what_was_said_and_what_came():
    held, _ = held_out()
    upper, lower = calibration_figure(held, "ensemble").axes
    curve = reliability(held.probability, held.accessed)
    drawn = upper.containers[0].lines[0]
    assert drawn.get_xdata() == pytest.approx(curve.said)
    assert drawn.get_ydata() == pytest.approx(curve.came)
    assert f"{curve.ece:.3f}" in upper.containers[0].get_label()
    assert [bar.get_height() for bar in lower.patches] == curve.size.tolist()
    assert "probability" in lower.get_xlabel()


def test_the_hit_mass_figure_shows_model_baselines_and_oracle():
    held, history = held_out()
    (axes,) = hit_mass_figure(held, "ensemble", history, 0.1).axes
    lines = lines_of(axes)
    sizes = cache_sizes(40)
    assert lines["ensemble"] == pytest.approx(hit_mass_curve(held.expected, held.actual, sizes) * 100)
    assert lines["oracle (knew it)"] == pytest.approx(hit_mass_curve(held.actual, held.actual, sizes) * 100)
    assert lines["last value"] == pytest.approx(hit_mass_curve(history.counts[4], held.actual, sizes) * 100)
    assert lines["by chance"] == pytest.approx(sizes / 40 * 100)
    assert "EWMA" in lines
    assert f"ensemble: {hit_mass(held.expected, held.actual, 0.1):.1%}" in [line.get_label() for line in axes.lines]
    assert axes.get_xscale() == "linear"


def test_baselines_know_nothing_of_the_windows_held_out():
    held, history = held_out()
    history.counts[-1] = np.arange(40)[::-1] * 1e3
    (axes,) = hit_mass_figure(held, "ensemble", history, None).axes
    sizes = cache_sizes(40)
    assert lines_of(axes)["last value"] == pytest.approx(hit_mass_curve(history.counts[4], held.actual, sizes) * 100)


def test_a_chosen_baseline_is_drawn_once():
    held, history = held_out()
    (axes,) = hit_mass_figure(held, "ewma", history, 0.1).axes
    assert [line.get_label().partition(":")[0] for line in axes.lines].count("EWMA") == 1


def test_many_chunks_are_shown_on_a_logarithmic_axis():
    held, history = held_out(1_000)
    (axes,) = hit_mass_figure(held, "ensemble", history, 0.1).axes
    assert axes.get_xscale() == "log"


def test_the_top_chunks_are_those_ranked_first_with_their_forecasts():
    history, _ = popularity(chunks=50, windows=12)
    result = forecast_chunks(history, cache_fraction=0.1, names=MODELS)
    names = [f"part-{chunk}" for chunk in range(50)]
    past, future, bar = top_chunks_figure(result, history, names).axes
    top = result.table.slice(0, 20)
    chunks = top.column("chunk").to_pylist()
    assert past.collections[0].get_array().tolist() == history.counts[:, chunks].T.tolist()
    assert [label.get_text() for label in past.get_yticklabels()] == [
        f"{rank + 1}  part-{chunk}" for rank, chunk in enumerate(chunks)
    ]
    assert future.containers[0].lines[0].get_xdata() == pytest.approx(top.column("expected").to_numpy())
    bars = future.containers[0].lines[2][0].get_segments()
    assert [x for x, _ in (bar[0] for bar in bars)] == pytest.approx(top.column("lower").to_numpy())
    assert [x for x, _ in (bar[1] for bar in bars)] == pytest.approx(top.column("upper").to_numpy())
    assert "accesses" in bar.get_xlabel()
    assert "epoch" in past.get_xlabel()


# -- pictures ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "history",
    [
        history_of([[3]] * 4, phases=1),
        history_of([[0, 0]] * 4, phases=1),
        history_of(np.eye(3)[[0, 1, 2] * 2], phases=3),
        shuffled(chunks=10),
        popularity(chunks=5_000, windows=300, phases=1)[0],
    ],
    ids=["one", "silent", "sweep", "ten", "many"],
)
def test_any_history_can_be_drawn_small_and_large(history):
    result = forecast_chunks(history, cache_fraction=0.1, names=MODELS)
    for dpi in (80, LARGE_DPI):
        plots = forecast_plots(result, history, cache_fraction=0.1, dpi=dpi)
        assert set(plots) == {"calibration", "hit_mass", "top_chunks"}
        assert all(raw.startswith(b"\x89PNG") for raw in plots.values())
        if dpi == 80:
            assert max(map(len, plots.values())) <= 30_000


def test_names_that_break_fonts_or_formulas_are_drawn_as_they_are():
    history, _ = popularity(chunks=4, windows=8)
    result = forecast_chunks(history, cache_fraction=0.5, names=MODELS)
    names = ["$x_{", "猫.npz", "a\x1b[31mb\n", "data/" + "é" * 300]
    assert forecast_plots(result, history, names=names)["top_chunks"].startswith(b"\x89PNG")
    assert plot_labels(["$x_{", "a\x1bb"]) == ["$x_{", "a?b"]


def test_long_names_keep_what_tells_them_apart():
    names = [f"s3://bucket/a/long/prefix/part-{number:05d}.snappy.parquet" for number in (12, 345)]
    assert plot_labels(names) == ["..012..", "..345.."]
    assert plot_labels(["x" * 40]) == ["xxxxxx..xxxxxxxxxx"]
    assert plot_labels(["x" * 40, "x" * 40, "x" * 41]) == ["..", "..", "..x"]
    assert plot_labels(["1", "2"]) == ["1", "2"]
