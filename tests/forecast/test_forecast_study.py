"""What a study says of a log does not depend on how finely the log is cut."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from forecast_world import shuffled

from foreshard.access.importers import Imported, Report
from foreshard.access.trace import Trace, equal_starts
from foreshard.errors import ConfigError
from foreshard.forecast import study
from foreshard.forecast.gate import until, warm_from
from foreshard.forecast.hindsight import known_before
from foreshard.forecast.judging import capacity_of
from foreshard.forecast.pins import PINS_SCHEMA, pins, pins_table
from foreshard.forecast.regime import detect_regime
from foreshard.forecast.report import policy_section, study_sections
from foreshard.forecast.study import study_log
from foreshard.simulate.shadow import Policy, Shadow, hybrid

MODELS = ("last", "ewma")
REACTIVE = ("lru", "s3-fifo", "sieve", "keep")


def imported(objects, windows: int, phases: int = 1, count: int | None = None, nbytes=None) -> Imported:
    objects = np.asarray(objects, np.int32)
    count = count or int(objects.max()) + 1
    names = np.arange(count).astype(object)
    sizes = np.ones(count, np.int64) if nbytes is None else np.asarray(nbytes, np.int64)
    trace = Trace(objects, names, sizes, equal_starts(len(objects), windows), phases)
    return Imported(trace, Report("test", ("log",), len(objects), ()))


def independent(requests: int = 20_000, objects: int = 1_000, seed: int = 0):
    """Requests that are drawn one by one, some objects more often than others."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, objects + 1)
    return rng.choice(objects, requests, p=share / share.sum())


# -- what caches are filled by ----------------------------------------------------------------------------


def test_caches_are_filled_however_finely_the_log_is_cut():
    hits = {}
    for windows in (20, 200):
        found = study_log(imported(independent(), windows), cache_fraction=0.3, names=MODELS)
        hits[windows] = {row["policy"]: row["hit_rate"] for row in found.choice.summary()}
    # 200 windows have 100 requests each: those of eight do not fill a cache for 300 objects, and nothing is evicted.
    assert len({hits[200][name] for name in REACTIVE}) == len(REACTIVE)
    assert abs(hits[200]["lru"] - hits[20]["lru"]) < 0.1


def test_filling_goes_back_five_windows_or_as_far_as_the_cache_needs():
    trace = imported(np.arange(100) % 50, 20).trace  # five new objects in every window, again from window 10 on
    assert warm_from(trace, 17, 1) == 12
    assert warm_from(trace, 17, 15) == 11
    assert warm_from(trace, 17, 25) == 7
    assert warm_from(trace, 17, 50) == 0
    assert warm_from(trace, 3, 1) == 0


@pytest.mark.parametrize("windows", [8, 100])
def test_no_cache_that_fetches_on_demand_hits_more_often_than_the_best_possible_one(windows):
    for objects in (
        independent(4_000, 300),
        np.random.default_rng(1).permuted(np.tile(np.arange(100), (40, 1)), axis=1),
    ):
        found = study_log(imported(np.ravel(objects), windows), cache_fraction=0.2, names=MODELS)
        hits = {row["policy"]: row["hit_rate"] for row in found.choice.summary()}
        assert max(hits[name] for name in REACTIVE) <= found.best_possible


def test_policies_are_judged_by_whole_epochs():
    history = shuffled(chunks=30, rows=4, epochs=5, phases=8)
    objects = np.concatenate([np.repeat(np.arange(30), row.astype(int)) for row in history.counts])
    found = study_log(imported(objects, 40, phases=8), cache_fraction=0.2, names=MODELS)
    assert sorted(set(found.choice.evidence.column("window").to_pylist())) == list(range(32, 40))


def test_the_regime_is_that_of_the_requests_in_their_order():
    trace = imported(np.tile(np.arange(50), 12), 12).trace
    found = study_log(imported(trace.objects, 12), cache_fraction=0.2, names=MODELS)
    assert found.regime == detect_regime(trace)
    assert found.regime.evidence.rounds == 1


# -- what it refuses -----------------------------------------------------------------------------------


def test_a_cache_that_holds_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"0\.1 of 5 bytes.*none of 5 objects.*--cache-fraction"):
        study_log(imported(np.arange(40) % 5, 4), cache_fraction=0.1, names=MODELS)
    log = imported(np.arange(40) % 5, 4, nbytes=[100] * 5)
    with pytest.raises(ConfigError, match=r"0\.1 of 500 bytes"):
        study_log(log, cache_fraction=0.1, names=MODELS)
    assert study_log(log, cache_fraction=0.2, names=MODELS).choice.name == "keep"


def test_more_counts_than_fit_in_memory_are_refused(monkeypatch):
    monkeypatch.setattr(study, "_MOST_COUNTS", 50)
    with pytest.raises(ConfigError, match=r"20 windows of 5 objects.*at most 10 --windows"):
        study_log(imported(np.arange(40) % 5, 20), cache_fraction=0.5, names=MODELS)


def test_counts_are_held_once():
    log = imported(np.append(np.arange(10_000), independent(200_000, 10_000)), 400)
    tracemalloc.start()
    try:
        found = study_log(log, cache_fraction=0.2, names=MODELS)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.history.counts.nbytes == 32_000_000
    assert peak < 1.8 * 32_000_000


# -- what it advises -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fraction", "words"),
    [
        ("keep", 1.0, "Keep what is in memory and evict nothing."),
        ("s3-fifo", 0.0, "Let s3-fifo decide what stays, and pin nothing."),
        ("pin", 1.0, "Give 100% of the cache to what is expected most per byte; choose anew for every window."),
        (
            "hybrid-0.75",
            0.75,
            (
                "Give 75% of the cache to what is expected most per byte, and the rest to lru; "
                "choose anew for every window."
            ),
        ),
    ],
)
def test_the_report_advises_the_policy_that_was_chosen_and_marks_it(name, fraction, words):
    found = study_log(imported(independent(2_000, 50), 8), cache_fraction=0.2, names=MODELS)
    chosen = replace(found, choice=replace(found.choice, name=name, pin_fraction=fraction))
    section = policy_section(chosen)
    assert section.sentences[0].removesuffix(" --out lists the objects in pins.parquet.") == words
    assert [row[0] for at, row in enumerate(section.grid.rows) if at in section.grid.marked] == [name]
    assert section.grid.rows[-1][:2] == ["MIN", found.best_possible]


def test_the_report_says_that_min_is_no_bound_where_sizes_differ():
    words = {}
    for sizes in (None, np.arange(50) + 1):
        found = study_log(imported(independent(2_000, 50), 8, nbytes=sizes), cache_fraction=0.2, names=MODELS)
        words[sizes is None] = str(policy_section(found).grid.rows[-1][-1])
    assert "sizes differ, so that it is no upper bound" in words[False]
    assert "sizes differ" not in words[True]


def test_a_ranking_that_is_pinned_by_is_shown_though_the_log_is_uniform():
    found = study_log(imported(np.tile(np.arange(60), 20), 8), cache_fraction=0.2, names=MODELS)
    assert (found.regime.kind, found.choice.name) == ("uniform", "keep")
    titles = [section.title for section in study_sections(found, 5)]
    assert "What comes next" not in titles
    pinning = replace(found, choice=replace(found.choice, name="pin", pin_fraction=1.0))
    sections = study_sections(pinning, 5)
    assert "What comes next" in [section.title for section in sections]
    assert not any("nothing to predict: everything" in text for section in sections for text in section.sentences)


# -- what is pinned ------------------------------------------------------------------------------------


@pytest.mark.parametrize("phases", [1, 3])
@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize(("policy", "share"), [("pin", 1.0), ("hybrid-0.5", 0.5)])
def test_what_is_written_to_be_pinned_is_what_the_replay_would_pin_next(phases, sized, policy, share):
    rng = np.random.default_rng(3)
    objects = independent(6_000, 80)
    if phases > 1:  # a third of the objects in every phase
        objects = objects * phases + np.tile(np.repeat(np.arange(phases), 200), 10)
    count = 80 * phases
    sizes = rng.integers(1, 1000, count) if sized else np.ones(count, np.int64)
    whole = imported(objects, 10 * phases, phases, count, sizes)
    known = replace(whole, trace=until(whole.trace, 9 * phases))
    found = study_log(known, cache_fraction=0.2, names=["ewma"])
    found = replace(found, choice=replace(found.choice, name=policy, pin_fraction=share))
    table = pins_table(found)
    assert table.schema.equals(PINS_SCHEMA)
    assert set(table.column("phase").to_pylist()) == set(range(phases))

    capacity = capacity_of(whole.trace, 0.2)
    shadow = Shadow(whole.trace, capacity, [Policy("pin", 1, None)] if share == 1 else [hybrid(0.5)])
    expected = known_before(whole.trace.history(), "ewma", 9 * phases)
    for phase in range(phases):
        shadow.run(9 * phases + phase, expected(9 * phases + phase))
        cache = shadow._caches[policy]
        mine = table.filter(pa.array(table.column("phase").to_numpy() == phase))
        named = [int(name) for name in mine.column("object").to_pylist()]
        assert sorted(named) == np.flatnonzero(cache._pinned).tolist()
        assert mine.column("order").to_pylist() == list(range(len(named)))
        assert mine.column("nbytes").to_pylist() == sizes[named].tolist()
        assert sum(sizes[named]) <= share * capacity
        worth = mine.column("expected").to_numpy() / sizes[named]
        assert (np.diff(worth) <= 0).all()


def test_nothing_is_written_where_nothing_is_pinned():
    found = study_log(imported(independent(2_000, 50), 8), cache_fraction=0.2, names=MODELS)
    for name, share in (("lru", 0.0), ("keep", 1.0)):
        chosen = replace(found, choice=replace(found.choice, name=name, pin_fraction=share))
        assert not pins(chosen)
        assert pins_table(chosen).num_rows == 0
