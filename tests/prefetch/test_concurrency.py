"""The number of fetches in flight follows what the store gives, within bounds, and does not swing."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshard.prefetch.concurrency import START, Concurrency


class Store:
    """A store whose fetches of one byte take a time that depends on how many are in flight; time is simulated."""

    def __init__(self, most, seconds, *, late=1.0, failing=0.0):
        self.now, self.limits = 0.0, []
        self.control = Concurrency(most, clock=lambda: self.now)
        self._seconds, self._late, self._failing = seconds, late, failing

    def run(self, fetches):
        for i in range(fetches):
            step = self._seconds(self.control.limit) / self.control.limit
            self.now += step
            self.control.waited(self._late * step)
            failed = i % 100 < self._failing * 100
            self.limits.append(self.control.done(0 if failed else 1, failed=failed))
        return self.control.limit


def latency_bound(_):
    return 0.05


def bandwidth_bound(best):
    return lambda limit: 0.01 * max(limit / best, 1.0)


def test_it_begins_low_enough_for_any_store():
    assert Concurrency(64).limit == START
    assert Concurrency(2).limit == 2


def test_where_latency_is_all_it_grows_to_its_bound():
    store = Store(32, latency_bound)
    assert store.run(600) == 32


def test_it_grows_no_further_than_there_is_room_for_and_shrinks_where_there_is_less():
    store = Store(32, latency_bound)
    store.control.bound = 7
    assert store.run(600) == 7
    store.control.bound = 5
    assert store.run(100) == 5


@pytest.mark.parametrize("best", [1, 3, 9])
def test_more_fetches_than_bring_more_bytes_are_given_up_again(best):
    store = Store(64, bandwidth_bound(best))
    store.run(4000)
    later = store.limits[1000:]
    assert max(later) <= max(START, 2 * best) + 1
    assert sum(later) / len(later) >= min(best, START) * 0.9
    changes = sum(a != b for a, b in itertools.pairwise(later))
    assert changes <= len(later) / 50, "it may try again now and then, not swing"


def test_a_store_that_grows_quicker_later_is_found_out():
    store = Store(64, bandwidth_bound(4))
    store.run(2000)
    store._seconds = latency_bound
    assert store.run(60_000) >= 16


def test_time_without_waiting_gives_fetches_back():
    store = Store(32, latency_bound, late=0.0)
    assert store.run(2000) == 1


def test_fetches_that_fail_halve_it_and_few_failures_do_not():
    many = Store(32, latency_bound, failing=0.5)
    assert many.run(600) <= 2
    few = Store(32, latency_bound, failing=0.02)
    assert few.run(2000) >= START


@given(
    st.lists(st.tuples(st.integers(0, 1 << 24), st.booleans(), st.floats(0, 1)), max_size=400),
    st.integers(1, 40),
)
def test_it_stays_within_its_bounds(events, most):
    now = [0.0]
    control = Concurrency(most, clock=lambda: now[0])
    for nbytes, failed, seconds in events:
        now[0] += seconds
        control.waited(seconds / 2)
        assert 1 <= control.done(nbytes, failed=failed) <= most
        assert 1 <= control.limit <= most
