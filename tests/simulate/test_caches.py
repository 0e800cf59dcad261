"""Reactive and pinned caches against the plainest form of each, in bytes, in parts, and with objects taken out."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshard.simulate.caches import Keep, Lru
from foreshard.simulate.pinned import Pinned
from foreshard.simulate.s3fifo import S3Fifo
from foreshard.simulate.sieve import Sieve

OBJECTS = 9


class PlainLru:
    def __init__(self, sizes, capacity, renew=True):
        self.sizes, self.capacity, self.renew, self.queue = sizes, capacity, renew, []

    def get(self, one):
        if one in self.queue:
            if self.renew:
                self.queue.remove(one)
                self.queue.append(one)
            return True
        if self.sizes[one] <= self.capacity:
            while sum(self.sizes[c] for c in self.queue) + self.sizes[one] > self.capacity:
                self.queue.pop(0)
            self.queue.append(one)
        return False

    def drop(self, one):
        if one in self.queue:
            self.queue.remove(one)

    def held(self):
        return set(self.queue)


class PlainKeep(PlainLru):
    def get(self, one):
        if one in self.queue:
            return True
        if sum(self.sizes[c] for c in self.queue) + self.sizes[one] <= self.capacity:
            self.queue.append(one)
        return False


class PlainSieve(PlainLru):
    """The queue from the oldest to the newest; the hand is the object it looks at next."""

    def __init__(self, sizes, capacity):
        super().__init__(sizes, capacity)
        self.visited, self.hand = {}, None

    def get(self, one):
        if one in self.queue:
            self.visited[one] = True
            return True
        if self.sizes[one] <= self.capacity:
            while sum(self.sizes[c] for c in self.queue) + self.sizes[one] > self.capacity:
                at = self.queue.index(self.hand) if self.hand is not None else 0
                while self.visited[self.queue[at]]:
                    self.visited[self.queue[at]] = False
                    at = (at + 1) % len(self.queue)
                self.hand = self.queue[at]
                self.drop(self.hand)
            self.queue.append(one)
            self.visited[one] = False
        return False

    def drop(self, one):
        if one in self.queue:
            at = self.queue.index(one)
            if self.hand == one:
                self.hand = self.queue[at + 1] if at + 1 < len(self.queue) else None
            self.queue.remove(one)


class PlainS3Fifo:
    def __init__(self, sizes, capacity):
        self.sizes, self.capacity = sizes, capacity
        self.share, self.ghost_share = int(capacity * 0.1), int(capacity * 0.9)
        self.small, self.main, self.ghost, self.hits, self.full = [], [], [], {}, False

    def total(self, queue):
        return sum(self.sizes[c] for c in queue)

    def get(self, one):
        if one in self.small + self.main:
            self.hits[one] = min(self.hits[one] + 1, 3)
            return True
        known = one in self.ghost
        if known:
            self.ghost.remove(one)
        if self.sizes[one] > self.capacity:
            return False
        while self.total(self.small + self.main) + self.sizes[one] > self.capacity:
            self.full = True
            if self.total(self.main) > self.capacity - self.share or not self.small:
                self.evict_main()
            else:
                self.evict_small()
        into_main = known or (not self.full and self.total(self.small) >= self.share)
        (self.main if into_main else self.small).append(one)
        self.hits[one] = 0
        return False

    def evict_small(self):
        while self.small:
            one = self.small.pop(0)
            if self.hits[one] > 1:
                self.hits[one] = 0
                self.main.append(one)
                continue
            if self.sizes[one] <= self.ghost_share:
                self.ghost.append(one)
                while self.total(self.ghost) > self.ghost_share:
                    self.ghost.pop(0)
            return

    def evict_main(self):
        while self.hits[self.main[0]]:
            one = self.main.pop(0)
            self.hits[one] -= 1
            self.main.append(one)
        self.main.pop(0)

    def drop(self, one):
        for queue in (self.small, self.main):
            if one in queue:
                queue.remove(one)

    def held(self):
        return set(self.small + self.main)


def fifo(nbytes, capacity):
    return Lru(nbytes, capacity, renew=False)


PAIRS = {
    "lru": (Lru, PlainLru),
    "fifo": (fifo, lambda sizes, capacity: PlainLru(sizes, capacity, renew=False)),
    "keep": (Keep, PlainKeep),
    "sieve": (Sieve, PlainSieve),
    "s3-fifo": (S3Fifo, PlainS3Fifo),
}

traces = st.lists(st.integers(0, OBJECTS - 1), min_size=1, max_size=80)
sizes = st.one_of(st.just([1] * OBJECTS), st.lists(st.integers(1, 6), min_size=OBJECTS, max_size=OBJECTS))


@pytest.mark.parametrize("name", PAIRS)
@given(trace=traces, sizes=sizes, capacity=st.integers(0, 25), cut=st.integers(0, 80), taken=st.sets(st.integers(0, 8)))
@settings(max_examples=150, deadline=None)
def test_hits_and_contents_are_those_of_the_plainest_form(name, trace, sizes, capacity, cut, taken):
    make, plain_of = PAIRS[name]
    nbytes, objects = np.array(sizes, np.int64), np.array(trace, np.int32)
    cache, plain = make(nbytes, capacity), plain_of(sizes, capacity)
    for part in (objects[:cut], objects[cut:]):
        assert cache.touch(part).tolist() == [plain.get(one) for one in part.tolist()]
        assert set(np.flatnonzero(cache.holds()).tolist()) == plain.held()
        assert nbytes[cache.holds()].sum() <= capacity
        cache.remove(np.array(sorted(taken), np.int32))
        for one in taken:
            plain.drop(one)
    assert not cache.holds()[list(taken)].any()


def test_one_hit_wonders_do_not_wash_out_what_s3_fifo_keeps():
    rng = np.random.default_rng(0)
    hot = rng.integers(0, 20, 4000)
    trace = np.empty(8000, np.int32)
    trace[::2], trace[1::2] = hot, 100 + np.arange(4000)
    nbytes = np.ones(4100, np.int64)
    assert Lru(nbytes, 25).touch(trace)[::2].mean() < 0.6
    assert S3Fifo(nbytes, 25).touch(trace)[::2].mean() > 0.95


def test_hits_on_a_real_trace_are_those_of_libcachesim():
    """Counted once with libcachesim 0.3.5 on these 30,000 requests: LRU, S3FIFO and Sieve of 75 and 750 objects."""
    path = Path(__file__).parent.parent / "data" / "gate_web12.parquet"
    objects = pq.read_table(path).column("object_id").to_numpy().astype(np.int32)
    nbytes = np.ones(int(objects.max()) + 1, np.int64)
    found = {k: [int(make(nbytes, k).touch(objects).sum()) for make in (Lru, S3Fifo, Sieve)] for k in (75, 750)}
    assert found == {75: [9460, 9184, 9051], 750: [16902, 17870, 17648]}


# -- pinned --------------------------------------------------------------------------------------------


@given(
    trace=traces,
    sizes=sizes,
    capacity=st.integers(0, 25),
    rankings=st.lists(st.permutations(range(OBJECTS)), min_size=2, max_size=2),
    share=st.sampled_from([0.0, 0.5, 1.0]),
)
@settings(max_examples=150, deadline=None)
def test_what_is_pinned_hits_and_the_rest_is_an_lru_of_what_is_left(trace, sizes, capacity, rankings, share):
    nbytes = np.array(sizes, np.int64)
    pinned_room = int(capacity * share)
    cache = Pinned(nbytes, pinned_room, Lru(nbytes, capacity - pinned_room) if share < 1 else None)
    plain, pinned = PlainLru(sizes, capacity - pinned_room if share < 1 else -1), set()
    for ranked in rankings:
        before = pinned | plain.held()
        fetched = cache.pin(np.array(ranked))
        pinned, used = set(), 0
        for one in ranked:
            if used + sizes[one] > pinned_room:
                break
            pinned.add(one)
            used += sizes[one]
        for one in pinned:
            plain.drop(one)
        assert set(fetched.tolist()) == pinned - before
        hits = cache.touch(np.array(trace, np.int32)).tolist()
        assert hits == [one in pinned or plain.get(one) for one in trace]
        assert nbytes[cache.holds()].sum() <= capacity


def test_what_is_pinned_takes_no_room_in_the_rest():
    nbytes = np.ones(4, np.int64)
    cache = Pinned(nbytes, 1, Lru(nbytes, 2))
    cache.pin(np.array([3]))
    cache.touch(np.array([0, 1], np.int32))
    assert cache.pin(np.array([1])).tolist() == []  # the rest held it
    assert cache.touch(np.array([2, 0, 1], np.int32)).tolist() == [False, True, True]
