"""Adaptation reacts to what was measured, stays in bounds and does not swing."""

from dataclasses import replace

import pytest

from foreshard.prefetch.control import Tuning, adjust
from foreshard.prefetch.monitor import EpochStats

CALM = EpochStats(1, touches=100, loop_s=20)
LATE = replace(CALM, wait_s=10, wait_fetch_s=10)
FINE = replace(CALM, wait_s=0.2, wait_fetch_s=0.2)
LATER = Tuning(waited=0.1)  # not the first epoch


def test_an_epoch_that_waits_for_chunks_asks_for_depth():
    assert adjust(LATER, LATE).depth > LATER.depth


def test_waiting_for_anything_else_does_not():
    assert adjust(LATER, replace(LATE, wait_fetch_s=0, wait_decode_s=10)).depth == LATER.depth


def test_the_first_epoch_which_fills_the_memory_tries_nothing():
    first = adjust(Tuning(), LATE)
    assert (first.depth, first.trial) == (1, False)
    assert adjust(first, LATE).depth > 1


@pytest.mark.parametrize(("wait_s", "stays"), [(10, False), (5, True)])
def test_more_depth_is_kept_only_if_the_loop_waited_less(wait_s, stays):
    deeper = adjust(LATER, LATE)
    after = adjust(deeper, replace(LATE, wait_fetch_s=wait_s))
    assert (after.depth >= deeper.depth) == stays
    assert after.settled == (not stays)


def test_what_did_not_help_is_tried_again_only_after_a_calm_epoch():
    settled = adjust(adjust(LATER, LATE), LATE)
    assert adjust(settled, LATE).depth == 1
    assert adjust(adjust(settled, CALM), LATE).depth > 1


def test_between_the_thresholds_nothing_changes():
    assert adjust(LATER, FINE) == replace(LATER, waited=0.002)


@pytest.mark.parametrize("waits", [[0.0], [10.0], [10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0]])
def test_settings_stay_within_bounds(waits):
    tuning = Tuning()
    for i in range(24):
        wait = waits[i % len(waits)]
        tuning = adjust(tuning, replace(CALM, wait_s=wait, wait_fetch_s=wait))
        assert 1 <= tuning.depth <= 16


def test_a_forecast_that_was_not_used_loses_its_share_and_regains_it_slowly():
    wrong = replace(FINE, forecast_bytes=100, forecast_used_bytes=10)
    right = replace(FINE, forecast_bytes=100, forecast_used_bytes=90)
    tuned = adjust(Tuning(), wrong)
    assert tuned.forecast == 0.5
    assert adjust(tuned, right).forecast == 0.75


def test_a_forecast_that_stays_wrong_is_not_trusted_with_what_stays_until_it_was_right_again():
    wrong = replace(FINE, forecast_bytes=100, forecast_used_bytes=10)
    right = replace(FINE, forecast_bytes=100, forecast_used_bytes=90)
    tuned = adjust(adjust(Tuning(), wrong), wrong)
    assert not tuned.trusts_forecast
    assert adjust(tuned, right).trusts_forecast


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
