"""Chunks that are read to where they shall lie: right bytes, no byte leaked, no deadlock, whatever else goes on."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshard.errors import DeadlineError, StorageError
from foreshard.prefetch.arena import Arena, Payload
from foreshard.prefetch.prefetcher import Prefetcher
from foreshard.prefetch.region import Region
from foreshard.prefetch.schedule import first_touches, order_of
from foreshard.simulate.belady import plan_residency

NOWHERE = np.array([-1], np.int64)


def content(chunk, nbytes):
    return ((np.arange(nbytes) * 3 + 41 * chunk) % 251).astype(np.uint8).tobytes()


class Disk:
    """Reads chunks in place, but for those in `refused`, which are read by themselves, and those in `broken`."""

    def __init__(self, nbytes, *, refused=(), broken=(), delay=0.0):
        self.nbytes, self.refused, self.broken, self.delay = nbytes, refused, broken, delay
        self.in_place = self.copied = 0

    def direct(self, chunks, rooms):
        for chunk, room in zip(chunks, rooms, strict=True):
            assert len(room) == self.nbytes[chunk]
            room[: len(room) // 2] = content(chunk, len(room))[: len(room) // 2]
            if self.delay:
                time.sleep(self.delay)
            if chunk in self.broken:
                raise StorageError(f"chunk {chunk} is gone")
            room[len(room) // 2 :] = content(chunk, len(room))[len(room) // 2 :]
        if any(chunk in self.refused for chunk in chunks):
            return None
        self.in_place += len(chunks)
        return [Payload(room, NOWHERE) for room in rooms]

    def fetch(self, chunks):
        self.copied += len(chunks)
        return [Payload(memoryview(content(chunk, int(self.nbytes[chunk]))), NOWHERE) for chunk in chunks]


def make(disk, budget, timeout=10):
    region = Region(budget, int(disk.nbytes.max()))
    arena = Arena(region.capacity, region.bypass, 1)
    return Prefetcher(disk.fetch, disk.nbytes, region, arena, timeout=timeout, direct=disk.direct), arena


def read(prefetcher, arena, trace, nbytes, together):
    """Carry out a trace, some touches at a time, and check the bytes of every chunk lent."""
    chunks = np.array(trace, np.int32)
    region = prefetcher.region
    plan = plan_residency(chunks, nbytes, (region.capacity - region.bypass) * 3 // 4)
    misses = np.flatnonzero(~plan.hit)
    prefetcher.begin([(int(t), trace[t]) for t in misses], plan.kept_at_start, concurrency=3)
    touch = 0
    while touch < len(trace):
        lent = []
        while touch + len(lent) < len(trace) and len(lent) < together:
            at = touch + len(lent)
            one = prefetcher.lend(at, trace[at], holding=bool(lent))
            if one is None:
                break
            lent.append(one)
            if one.bypass:
                break
        for one, chunk in zip(lent, trace[touch:], strict=False):
            assert bytes(arena.chunk(one.entry.held)) == content(chunk, int(nbytes[chunk]))
        touches = list(range(touch, touch + len(lent)))
        prefetcher.give_back(touches, [trace[t] for t in touches], lent, [bool(plan.keep[t]) for t in touches])
        touch += len(lent)


@given(
    trace=st.lists(st.integers(0, 9), min_size=1, max_size=60),
    sizes=st.lists(st.integers(1, 40).map(lambda n: 8 * n), min_size=10, max_size=10),
    slack=st.integers(0, 20).map(lambda n: 8 * n),
    refused=st.sets(st.integers(0, 9), max_size=4),
    together=st.integers(1, 4),
)
@settings(max_examples=120, deadline=None)
def test_any_trace_of_chunks_of_any_sizes_is_lent_with_the_right_bytes(trace, sizes, slack, refused, together):
    nbytes = np.array(sizes, np.int64)
    disk = Disk(nbytes, refused=refused)
    prefetcher, arena = make(disk, 2 * max(sizes) + slack)
    try:
        read(prefetcher, arena, trace, nbytes, together)
    finally:
        prefetcher.close()
    assert prefetcher.region.used == prefetcher.region.bypass
    assert not arena._open
    assert arena._gaps == [(0, arena._capacity)]


def test_a_long_trace_with_slow_reads_is_mostly_read_in_place():
    rng = np.random.default_rng(0)
    nbytes = 8 * rng.integers(1, 60, 50)
    disk = Disk(nbytes, delay=0.0005)
    prefetcher, arena = make(disk, int(nbytes.sum()) // 3)
    read(prefetcher, arena, rng.integers(0, 50, 600).tolist(), nbytes, 3)
    prefetcher.close()
    assert disk.in_place > 2 * disk.copied


def test_a_read_in_place_that_fails_gives_its_place_back():
    nbytes = np.full(4, 64, np.int64)
    prefetcher, arena = make(Disk(nbytes, broken={2}), 256)
    with pytest.raises(StorageError, match="chunk 2 is gone"):
        prefetcher.lend(0, 2)
    prefetcher.close()
    assert arena._gaps == [(0, arena._capacity)]
    assert prefetcher.region.used == prefetcher.region.bypass


def test_what_is_being_read_is_not_moved_when_others_are():
    arena = Arena(96, 8, 1)
    first = arena.put(Payload(memoryview(b"a" * 24), NOWHERE))
    place = arena.open(24)
    last = arena.put(Payload(memoryview(b"b" * 24), NOWHERE))
    arena.free(first)
    arena.compact()
    place.room[:] = b"c" * 24
    slot = arena.seal(place, Payload(place.room, NOWHERE))
    assert [bytes(arena.chunk(s)) for s in (slot, last)] == [b"c" * 24, b"b" * 24]
    assert [arena.fits(n) for n in (24, 32, 48)] == [True, False, False]
    arena.compact()
    assert arena.fits(48)
    assert [bytes(arena.chunk(s)) for s in (slot, last)] == [b"c" * 24, b"b" * 24]


def test_a_read_that_outlives_the_memory_is_copied_or_dropped_but_never_lands_in_anothers_place():
    nbytes = np.full(3, 64, np.int64)
    gate = threading.Event()

    class Hanging(Disk):
        def direct(self, chunks, rooms):
            if chunks[0] == 1:
                gate.wait(10)
            return super().direct(chunks, rooms)

    disk = Hanging(nbytes)
    prefetcher, arena = make(disk, 256, timeout=0.2)
    prefetcher.begin([(0, 1)], frozenset(), concurrency=1)
    until = time.monotonic() + 5
    while not arena._open and time.monotonic() < until:
        time.sleep(0.001)
    with pytest.raises(DeadlineError):
        prefetcher.close()
    prefetcher.begin([(0, 0)], frozenset(), concurrency=2)
    lent = prefetcher.lend(0, 0)
    gate.set()
    while prefetcher._in_flight and time.monotonic() < until:
        time.sleep(0.001)
    assert bytes(arena.chunk(lent.entry.held)) == content(0, 64)
    prefetcher.give_back([0], [0], [lent], [False])
    prefetcher.close()
    assert prefetcher.region.used == prefetcher.region.bypass
    assert arena._gaps == [(0, arena._capacity)]


@given(data=st.data(), span=st.sampled_from([1, 7, 300, 70_000]))
@settings(max_examples=60, deadline=None)
def test_samples_are_sorted_by_step_and_chunk_and_equal_ones_stay_in_order(data, span):
    steps = np.sort(np.array(data.draw(st.lists(st.integers(0, 9), max_size=60)), np.int64))
    chunks = np.array(data.draw(st.lists(st.integers(0, span - 1), min_size=len(steps), max_size=len(steps))), np.int32)
    assert (order_of(steps, chunks, span) == np.lexsort((chunks, steps))).all()


@given(chunks=st.lists(st.integers(0, 30), max_size=80), more=st.sampled_from([0, 100]))
def test_first_touches_are_distinct_chunks_as_they_come(chunks, more):
    found = first_touches(np.array(chunks, np.int32), 31 + more)
    assert found.tolist() == list(dict.fromkeys(chunks))
