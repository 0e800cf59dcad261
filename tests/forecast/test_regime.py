"""The regime of a log: known truths, small and noisy logs, logs that end in mid-epoch, and real traces."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from forecast_world import history_of, popularity, shuffled, sweep
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshard.access.history import History
from foreshard.access.trace import Trace, equal_starts
from foreshard.errors import LogError
from foreshard.forecast.regime import detect_regime

DATA = Path(__file__).parent.parent / "data"


def trace_of(objects, windows, nbytes=None, phases=1):
    names, dense = np.unique(np.asarray(objects), return_inverse=True)
    nbytes = np.ones(len(names), np.int64) if nbytes is None else nbytes
    starts = equal_starts(len(dense), windows)
    return Trace(dense.astype(np.int32), names.astype(object), nbytes, starts, phases)


def read(path):
    return pq.read_table(path).column("object_id").to_numpy()


def epochs_of(rng, rows, epochs, phases):
    """Counts of shuffled epochs over chunks of the given rows."""
    chunk_of = np.repeat(np.arange(len(rows)), rows)
    return np.array(
        [
            np.bincount(part, minlength=len(rows))
            for _ in range(epochs)
            for part in np.array_split(chunk_of[rng.permutation(len(chunk_of))], phases)
        ]
    )


# -- uniform -------------------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 10**6),
    rows=st.lists(st.integers(1, 60), min_size=20, max_size=80),
    epochs=st.integers(2, 6),
    phases=st.integers(1, 5),
    missing=st.integers(0, 5),
)
@settings(max_examples=80, deadline=None)
def test_epochs_that_read_every_sample_once_are_uniform_also_if_the_last_is_cut(seed, rows, epochs, phases, missing):
    counts = epochs_of(np.random.default_rng(seed), np.array(rows), epochs + 1, phases)
    whole = history_of(counts[: epochs * phases], phases)
    assert detect_regime(whole).kind == "uniform"
    cut = counts[: max(len(counts) - missing, epochs * phases)]
    assert detect_regime(history_of(cut, phases), nbytes=np.array(rows)).kind == "uniform"
    padded = counts.copy()  # windows that were not reached stand as zeros in a log's history
    padded[len(cut) :] = 0
    assert detect_regime(history_of(padded, phases)).kind == "uniform"


@given(
    seed=st.integers(0, 10**6),
    objects=st.integers(30, 300),
    requests=st.floats(1.6, 6),
    windows=st.integers(2, 30),
)
@settings(max_examples=80, deadline=None)
def test_rounds_over_all_objects_are_uniform_wherever_windows_are_cut(seed, objects, requests, windows):
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(objects) for _ in range(7)])[: int(requests * objects)]
    found = detect_regime(trace_of(order, windows))
    assert found.kind == "uniform"
    assert found.evidence.rounds == 1
    assert "nothing to predict" in found.words


@given(
    seed=st.integers(0, 10**6),
    chunks=st.integers(30, 500),
    windows=st.integers(2, 16),
    rate=st.floats(0.3, 60),
    sized=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_draws_at_equal_rates_are_uniform_whatever_the_noise(seed, chunks, windows, rate, sized):
    rng = np.random.default_rng(seed)
    rows = rng.integers(10, 40, chunks) if sized else np.full(chunks, 10)
    counts = rng.poisson(rate * rows / rows.mean(), (windows, chunks))
    if counts.any():
        assert detect_regime(history_of(counts, 1), nbytes=rows if sized else None).kind == "uniform"


def test_files_of_any_size_that_are_read_once_an_epoch_are_uniform():
    rng = np.random.default_rng(6)
    sizes = 1 + np.exp(rng.normal(8, 2, 120)).astype(np.int64)
    order = np.concatenate([rng.permutation(120) for _ in range(5)])
    for windows in (5, 7):
        trace = trace_of(order, windows, sizes)
        assert detect_regime(trace).kind == "uniform"
        assert detect_regime(trace).evidence.spread > 0.3
        assert detect_regime(trace.history(), nbytes=sizes).kind == "uniform"


def test_lost_events_do_not_hide_that_epochs_are_uniform():
    rng = np.random.default_rng(2)
    counts = epochs_of(rng, np.full(2000, 8), 4, 1)
    counts[1, rng.choice(2000, 10, replace=False)] -= 1
    found = detect_regime(history_of(counts, 1))
    assert found.kind == "uniform"
    assert found.evidence.equal_share == pytest.approx(0.995)


def test_epochs_that_want_some_objects_ever_more_than_others_are_not_uniform():
    rng = np.random.default_rng(3)
    counts = np.tile(np.where(np.arange(300) < 30, 40, 1), (4, 1))
    equal_sizes = detect_regime(history_of(counts, 1), nbytes=np.full(300, 100))
    assert equal_sizes.kind == "popularity"
    assert equal_sizes.evidence.equal_share == 1
    assert detect_regime(history_of(counts, 1)).kind == "popularity"  # nor where sizes are not known
    assert detect_regime(history_of(counts, 1), nbytes=counts[0] * rng.integers(95, 105, 300)).kind == "uniform"


# -- the others ----------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), windows=st.integers(3, 24), phases=st.integers(1, 4), rate=st.floats(2, 40))
@settings(max_examples=60, deadline=None)
def test_rates_that_differ_and_stay_are_popularity(seed, windows, phases, rate):
    history, _ = popularity(windows=windows, phases=phases, seed=seed, rate=rate)
    assert detect_regime(history).kind == "popularity"


@given(seed=st.integers(0, 10**6), windows=st.integers(8, 24), speed=st.floats(0.25, 1))
@settings(max_examples=60, deadline=None)
def test_a_crowd_that_wanders_is_drift(seed, windows, speed):
    rng = np.random.default_rng(seed)
    place, centre = np.arange(400)[None, :], speed * 400 * np.arange(windows)[:, None] / windows
    counts = rng.poisson(80 * np.exp(-((place - centre - 20) ** 2) / 800.0))
    assert detect_regime(history_of(counts, 1)).kind == "drift"


def test_objects_that_are_wanted_equally_often_but_at_other_times_are_drift():
    counts = np.kron(np.eye(6), np.full((1, 50), 20))
    found = detect_regime(history_of(counts, 1))
    assert found.evidence.spread == 0
    assert found.kind == "drift"


def test_one_lasting_favourite_does_not_hide_that_the_others_change():
    rng = np.random.default_rng(8)
    place, centre = np.arange(300)[None, :], 15 * np.arange(16)[:, None]
    rates = 2 + 60 * np.exp(-((place - centre - 20) ** 2) / 400.0)
    rates[:, 7] = 20_000
    found = detect_regime(history_of(rng.poisson(rates), 1))
    assert found.evidence.persistence > 0.9
    assert found.evidence.unseen < 0.01
    assert found.kind == "drift"


def test_steady_growth_is_no_season():
    for seed in range(10):
        history, _ = popularity(growth=0.1, seed=seed)
        found = detect_regime(history)
        assert found.kind in ("drift", "popularity")
        assert found.evidence.seasonal_gain < 0.1


def test_objects_that_were_never_seen_before_are_drift():
    rng = np.random.default_rng(4)
    counts = np.zeros((12, 2000))
    counts[:, :100] = rng.poisson(15 * (rng.pareto(1.5, 100) + 0.1), (12, 100))
    for window in range(12):
        counts[window, 100 + window * 150 : 250 + window * 150] = 5
    found = detect_regime(history_of(counts, 1))
    assert found.kind == "drift"
    assert found.evidence.unseen > 0.1
    assert f"{found.evidence.unseen:.0%} of the requests went to objects not seen before" in found.words


@given(seed=st.integers(0, 10**6), phases=st.integers(2, 7), epochs=st.integers(3, 6), depth=st.floats(0.6, 2))
@settings(max_examples=60, deadline=None)
def test_objects_wanted_in_the_same_phase_of_every_epoch_are_seasonal(seed, phases, epochs, depth):
    rng = np.random.default_rng(seed)
    profile = np.exp(depth * rng.normal(size=(phases, 300)))
    rates = np.tile(profile, (epochs, 1)) * 15 * (rng.pareto(2.5, 300) + 0.2)
    found = detect_regime(history_of(rng.poisson(rates), phases))
    assert found.kind == "seasonal"
    # What the profile explains of the squared error around the level, worked out from the rates themselves.
    level = rates[:phases].mean(0)
    season = (rates[:phases] - level) ** 2 / (level + 1)
    explained = season.sum() / (season + rates[:phases] / (level + 1)).sum()
    assert found.evidence.seasonal_gain == pytest.approx(explained, abs=0.12)


def test_a_sweep_is_seasonal_though_every_epoch_reads_the_same():
    found = detect_regime(sweep())
    assert found.kind == "seasonal"
    assert found.evidence.equal_share == 1
    assert found.evidence.seasonal_gain == pytest.approx(1)
    history = sweep(epochs=5)
    late = History(history.counts[3:], history.epochs[3:], history.phases[3:], history.phases_per_epoch)
    assert detect_regime(late).kind == "seasonal"  # resumed in mid-epoch


def test_shuffled_epochs_show_no_season():
    for seed in range(20):
        assert detect_regime(shuffled(seed=seed)).kind == "uniform"


# -- figures -------------------------------------------------------------------------------------------


def test_figures_are_those_computed_by_hand():
    counts = np.array([[4, 2, 0, 0], [4, 1, 1, 0], [2, 2, 0, 2], [4, 1, 1, 2]])
    found = detect_regime(history_of(counts, 1)).evidence
    totals = counts.sum(0)
    assert found.equal_share == 0
    assert found.rounds is None
    assert found.dispersion == pytest.approx(counts.var(0, ddof=1).sum() / counts.mean(0).sum())
    assert found.concentration == totals[0] / totals.sum()
    assert found.unseen == 2 / 14
    mean = totals.mean()
    assert found.spread == pytest.approx(np.sqrt((((totals - mean) ** 2) - mean).sum() / (4 * mean**2)))


def test_overlap_and_persistence_are_those_of_known_windows():
    counts = np.ones((4, 20))
    for window, top in enumerate(((0, 1), (0, 1), (1, 2), (2, 3))):
        counts[window, list(top)] = 9
    found = detect_regime(history_of(counts, 1)).evidence
    assert found.overlap == pytest.approx((1 + 1 / 3 + 1 / 3) / 3)
    assert found.overlap_far == pytest.approx((1 / 3 + 0) / 2)
    # Two windows apart, one pair shares an object of 9 and the other none; n (n - 1) is 72 for 9, and 0 for 1.
    products = (81 + 2 * 9 + 17) + (4 * 9 + 16)
    assert found.persistence == pytest.approx(products / (4 * 72))


def test_counting_noise_is_not_taken_for_change():
    rates = np.random.default_rng(0).gamma(2, 0.5, 20_000)
    counts = np.random.default_rng(1).poisson(rates, (8, 20_000))
    cosine = counts[0] @ counts[4] / np.linalg.norm(counts[0]) / np.linalg.norm(counts[4])
    assert cosine < 0.7
    assert detect_regime(history_of(counts, 1)).evidence.persistence > 0.98


def test_a_regime_is_told_from_a_single_window_too():
    assert detect_regime(history_of(np.full((1, 50), 3), 1)).kind == "uniform"
    found = detect_regime(history_of([np.where(np.arange(50) < 5, 100, 1)], 1))
    assert found.kind == "popularity"
    assert "an unknown share" in found.words
    assert found.evidence.unseen is None


def test_a_regime_can_be_stored():
    regime = detect_regime(popularity()[0])
    stored = json.loads(json.dumps(regime.to_json(), allow_nan=False))
    assert (stored["kind"], stored["words"]) == (regime.kind, regime.words)
    assert stored["overlap"] == regime.evidence.overlap


def test_a_log_without_requests_or_sizes_that_do_not_fit_are_refused():
    with pytest.raises(LogError, match="holds no request"):
        detect_regime(history_of(np.zeros((3, 4))))
    with pytest.raises(LogError, match="3 sizes do not fit 4 objects"):
        detect_regime(history_of(np.ones((3, 4))), nbytes=np.ones(3, np.int64))


# -- real traces ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("windows", [2, 3, 5, 7, 20])
def test_the_log_of_a_real_training_loader_is_uniform(windows):
    objects = read(DATA / "gate_dlio.parquet")
    for cut in (800, 730, 321):
        trace = trace_of(objects[:cut], windows)
        assert detect_regime(trace).kind == "uniform"
        assert detect_regime(trace.history()).kind == "uniform"


@pytest.mark.parametrize("windows", [6, 12, 24])
def test_product_views_are_popular_or_drift(windows):
    found = detect_regime(trace_of(read(DATA / "gate_web12.parquet"), windows))
    assert found.kind in ("popularity", "drift")
    assert found.evidence.concentration > 0.5
    assert 0.05 < found.evidence.unseen < 0.2


@pytest.mark.parametrize("windows", [6, 12, 24])
def test_a_log_that_keeps_asking_for_new_objects_drifts(windows):
    found = detect_regime(trace_of(read(DATA / "oltp-20000.parquet"), windows))
    assert found.kind == "drift"
    assert found.evidence.unseen > 0.15
