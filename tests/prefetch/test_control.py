"""Adaptation reacts to what was measured, stays in bounds and does not swing."""

from dataclasses import replace

import pytest

from foreshard.prefetch.control import Tuning, adjust
from foreshard.prefetch.monitor import EpochStats

CALM = EpochStats(1, steps=1000, ready_steps=1000)
LATE = EpochStats(1, steps=1000, ready_steps=500)
FINE = EpochStats(1, steps=1000, ready_steps=970)


def test_batches_that_were_late_ask_for_depth_and_concurrency():
    tuned = adjust(Tuning(), LATE, max_concurrency=8)
    assert tuned.lookahead > Tuning().lookahead
    assert tuned.concurrency == 2 * Tuning().concurrency


def test_between_the_thresholds_nothing_changes():
    assert adjust(Tuning(), FINE, max_concurrency=8) == Tuning()


@pytest.mark.parametrize("stats", [CALM, LATE])
def test_settings_stay_within_bounds(stats):
    tuning = Tuning()
    for _ in range(20):
        tuning = adjust(tuning, stats, max_concurrency=8)
        assert 0.125 <= tuning.lookahead <= 0.5
        assert 1 <= tuning.concurrency <= 8


def test_a_forecast_that_was_not_used_loses_its_share_and_regains_it_slowly():
    wrong = replace(FINE, forecast_bytes=100, forecast_used_bytes=10)
    right = replace(FINE, forecast_bytes=100, forecast_used_bytes=90)
    tuned = adjust(Tuning(), wrong, max_concurrency=8)
    assert tuned.forecast == 0.5
    assert adjust(tuned, right, max_concurrency=8).forecast == 0.75


def test_rates_are_kept_apart_and_counters_add_up():
    one = EpochStats(
        3, steps=4, ready_steps=2, touches=10, hits=5, min_hits=8, prefetched_bytes=100, prefetched_used_bytes=90
    )
    both = one + EpochStats(3, steps=4, ready_steps=4, touches=10, hits=1, min_hits=2)
    assert both.epoch == 3
    assert both.ready_rate == 0.75
    assert both.residency_hit_rate == 0.3
    assert both.fraction_of_min == 0.6
    assert both.prefetch_accuracy == 0.9
