"""What was expected of past windows knows nothing of what came after their epoch began."""

import pytest
from forecast_world import history_of, popularity

from foreshard.forecast.hindsight import known_before
from foreshard.forecast.registry import make_forecasters


@pytest.mark.parametrize("phases", [1, 4])
def test_what_was_expected_of_a_window_knows_nothing_of_its_epoch_and_later(phases):
    history, _ = popularity(windows=16, phases=phases)
    for window in range(12, 16):
        origin = window - window % phases
        told = known_before(history, "ewma", 12)(window)
        changed = history.counts.copy()
        changed[origin:] = 7
        assert known_before(history_of(changed, phases), "ewma", 12)(window).tolist() == told.tolist()
        changed[origin - 1] += 50
        assert known_before(history_of(changed, phases), "ewma", 12)(window).tolist() != told.tolist()


def test_every_phase_of_an_epoch_has_its_own_forecast_from_the_epochs_beginning():
    history, _ = popularity(windows=16, phases=4)
    expected = known_before(history, "seasonal", 12)
    whole = make_forecasters(["seasonal"])["seasonal"].fit(history.until(12)).predict(4).expected
    for window in (12, 13, 15, 14):
        assert expected(window).tolist() == whole[window - 12].tolist()


def test_windows_that_fill_the_cache_or_come_too_early_are_expected_by_the_moving_average():
    history, _ = popularity(windows=16, phases=1)
    last, average = (make_forecasters([name])[name] for name in ("last", "ewma"))
    expected = known_before(history, "last", 10)
    assert expected(10).tolist() == last.fit(history.until(10)).predict(1).expected[0].tolist()
    assert expected(9).tolist() == average.fit(history.until(9)).predict(1).expected[0].tolist()
    too_early = known_before(history, "prophet", 1)
    assert too_early(2).tolist() == average.fit(history.until(2)).predict(1).expected[0].tolist()


def test_what_is_pinned_for_a_whole_epoch_is_chosen_by_all_that_is_left_of_it():
    history, _ = popularity(windows=12, phases=4)
    expected = known_before(history, "seasonal", 8, by_phase=False)
    whole = make_forecasters(["seasonal"])["seasonal"].fit(history.until(8)).predict(4).expected
    for window in range(8, 12):
        assert expected(window).tolist() == whole.sum(0).tolist()
    average = make_forecasters(["ewma"])["ewma"]
    # The first epoch knows none before it.
    assert expected(1).tolist() == average.fit(history.until(1)).predict(3).expected.sum(0).tolist()
