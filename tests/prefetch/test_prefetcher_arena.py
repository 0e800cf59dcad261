"""The prefetcher over the real memory: what is lent is neither evicted, moved nor overwritten, wherever it lies."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshard.prefetch.arena import Arena, Payload
from foreshard.prefetch.prefetcher import Prefetcher
from foreshard.prefetch.region import Region
from foreshard.shards.codec import encode_shard
from foreshard.simulate.belady import plan_residency


def raw_of(chunk, nbytes):
    return memoryview(bytes([chunk + 1]) * nbytes)


class World:
    """A prefetcher whose chunks lie in an arena."""

    def __init__(self, sizes, slack):
        self.nbytes = np.array(sizes, np.int64)
        largest = int(self.nbytes.max())
        self.region = Region(2 * largest + slack, largest)
        self.arena = Arena(self.region.capacity, self.region.bypass, 1)
        self.prefetcher = Prefetcher(self.fetch, self.nbytes, self.region, self.arena, timeout=10)

    def fetch(self, chunks):
        return [Payload(raw_of(c, int(self.nbytes[c])), np.zeros(1, np.int64)) for c in chunks]

    def whole(self, chunk, lent):
        """Whether a lent chunk has its bytes, and its place."""
        held = lent.entry.held
        found = bytes(self.arena.chunk(held))
        first = int(self.arena.places[held][0])
        return found == bytes(raw_of(chunk, int(self.nbytes[chunk]))) and first == self.arena.starts[held]


def run(trace, steps, sizes, slack):
    """Read batches of several chunks each, all of which are looked at again before they are given back."""
    world = World(sizes, slack)
    prefetcher, region = world.prefetcher, world.region
    try:
        chunks = np.array(trace, np.int32)
        cache = max(region.capacity - region.bypass, 0)
        plan = plan_residency(chunks, world.nbytes, cache, resident=prefetcher.resident())
        prefetcher.begin([(int(t), trace[t]) for t in np.flatnonzero(~plan.hit)], plan.kept_at_start, concurrency=3)
        at = 0
        for step in steps:
            group = []

            def give_back(group):
                for touch, lent in group:
                    assert world.whole(trace[touch], lent)
                prefetcher.give_back(
                    [touch for touch, _ in group],
                    [trace[touch] for touch, _ in group],
                    [lent for _, lent in group],
                    [bool(plan.keep[touch]) for touch, _ in group],
                )
                group.clear()

            seen = set()
            for touch in range(at, min(at + step, len(trace))):
                if trace[touch] in seen:  # a batch touches a chunk once
                    give_back(group)
                    seen.clear()
                seen.add(trace[touch])
                lent = prefetcher.lend(touch, trace[touch], holding=bool(group))
                if lent is None:
                    give_back(group)
                    lent = prefetcher.lend(touch, trace[touch])
                group.append((touch, lent))
                if lent.bypass:
                    give_back(group)
                assert region.used <= region.budget
            give_back(group)
            at += step
    finally:
        prefetcher.close()


SIZES = st.lists(st.integers(1, 40), min_size=6, max_size=6)
TRACE = st.lists(st.integers(0, 5), min_size=1, max_size=40)
STEPS = st.lists(st.integers(1, 4), min_size=40, max_size=40)


@settings(max_examples=60)
@given(trace=TRACE, steps=STEPS, sizes=SIZES, slack=st.integers(0, 100))
def test_lent_chunks_keep_their_bytes_and_place_whatever_the_budget(trace, steps, sizes, slack):
    # Chunks are Arrow messages, whose size is a multiple of 8; a budget is any number.
    run(trace, steps, [8 * size for size in sizes], slack)


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_chunks_of_any_content_begin_and_end_at_multiples_of_eight(compression):
    # The ledger counts a chunk's own bytes, the memory multiples of 8: they agree as long as this holds.
    texts = [["x" * (rows * number % 13) for number in range(rows)] for rows in range(1, 40)]
    chunks = [pa.record_batch({"text": rows, "short": pa.array(range(len(rows)), pa.int8())}) for rows in texts]
    _, ranges = encode_shard(chunks, compression)
    assert len(ranges) == 39
    assert all(start % 8 == end % 8 == 0 for start, end in ranges)
