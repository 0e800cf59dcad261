import numpy as np
import pytest

from foreshard.access.trace import Trace, equal_starts
from foreshard.errors import LogError


def trace(objects, starts, names=3, phases=1):
    return Trace(
        np.array(objects, np.int32),
        np.array([f"o{i}" for i in range(names)], object),
        np.ones(names, np.int64),
        np.array(starts, np.int64),
        phases,
    )


def test_windows_are_the_requests_between_their_starts():
    one = trace([0, 1, 1, 2, 0], [0, 2, 2, 5])
    assert one.windows == 3
    assert [one.window(number).tolist() for number in range(3)] == [[0, 1], [], [1, 2, 0]]
    assert np.shares_memory(one.window(2), one.objects)


def test_history_counts_every_request_once_in_its_window():
    history = trace([0, 1, 1, 2, 0, 0, 2], [0, 2, 2, 5, 7], phases=2).history()
    assert history.counts.tolist() == [[1, 1, 0], [0, 0, 0], [1, 1, 1], [1, 0, 1]]
    assert history.epochs.tolist() == [1, 1, 2, 2]
    assert history.phases.tolist() == [0, 1, 0, 1]
    assert history.phases_per_epoch == 2


def test_history_of_an_object_that_nobody_asked_for_is_zero():
    assert trace([0], [0, 1]).history().counts.tolist() == [[1, 0, 0]]


@pytest.mark.parametrize("starts", [[], [1, 5], [0, 4], [0, 3, 2, 5], [0, 6]])
def test_windows_that_do_not_cover_the_requests_are_refused(starts):
    with pytest.raises(LogError, match="windows start at"):
        trace([0, 1, 1, 2, 0], starts)


def test_an_object_without_a_size_and_an_epoch_without_a_phase_are_refused():
    with pytest.raises(LogError, match="3 names, 1 sizes"):
        Trace(np.zeros(1, np.int32), np.array(["a", "b", "c"], object), np.ones(1, np.int64), np.array([0, 1]), 1)
    with pytest.raises(LogError, match="0 phases per epoch"):
        trace([0], [0, 1], phases=0)


@pytest.mark.parametrize(("requests", "windows"), [(10, 3), (7, 7), (1, 1), (1000, 24)])
def test_equal_windows_differ_by_one_request_at_most(requests, windows):
    starts = equal_starts(requests, windows)
    lengths = np.diff(starts)
    assert (starts[0], starts[-1], len(lengths)) == (0, requests, windows)
    assert lengths.max() - lengths.min() <= 1


@pytest.mark.parametrize("windows", [0, 4])
def test_more_windows_than_requests_or_none_are_refused(windows):
    with pytest.raises(LogError, match=f"3 requests do not make {windows} windows"):
        equal_starts(3, windows)
