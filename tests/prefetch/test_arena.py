"""The arena: chunks never overlap nor change, however they come, go and are moved; gathering is Arrow's `take`."""

import datetime as dt
import decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshard.prefetch.arena import ASIDE, Arena, Payload
from foreshard.prefetch.gather import Gatherer
from foreshard.shards.codec import decode_chunk, encode_shard
from foreshard.shards.dictionaries import Dictionaries
from foreshard.shards.schema import logical_schema, shard_schema


def payload(content):
    """Return bytes with one place, in their middle."""
    return Payload(memoryview(content), np.array([len(content) // 2, -1], np.int64))


@given(
    steps=st.lists(st.tuples(st.integers(0, 11), st.integers(1, 40)), max_size=120),
    capacity=st.integers(40, 400),
)
@settings(max_examples=150, deadline=None)
def test_chunks_keep_their_bytes_while_others_come_go_and_are_moved(steps, capacity):
    capacity = capacity // 8 * 8
    arena = Arena(capacity, 40, 2)
    held = {}
    for number, (name, size) in enumerate(steps):
        if name in held:
            arena.free(held.pop(name)[0])
            continue
        content = bytes((np.arange(size) + 7 * number).astype(np.uint8))
        used = sum(-(-len(content) // 8) * 8 for _, content in held.values())
        if used + -(-size // 8) * 8 > capacity:
            arena.put_aside(payload(content))
            assert bytes(arena.chunk(ASIDE)) == content
            continue
        if not arena.fits(size):
            arena.compact()
        assert arena.fits(size)  # what the ledger grants has a place after moving
        held[name] = (arena.put(payload(content)), content)
        for slot, expected in held.values():
            assert bytes(arena.chunk(slot)) == expected
            assert arena.places[slot].tolist() == [arena.starts[slot] + len(expected) // 2, -1]
    for slot, _ in held.values():
        arena.free(slot)
    assert arena.fits(capacity)


def test_a_chunk_that_lay_aside_settles_among_the_others():
    arena = Arena(16, 8, 2)
    first = arena.put(payload(b"abcdefgh"))
    arena.put_aside(payload(b"ijklmnop"))
    slot = arena.settle()
    arena.put_aside(payload(b"qrstuvwx"))
    assert [bytes(arena.chunk(s)) for s in (first, slot, ASIDE)] == [b"abcdefgh", b"ijklmnop", b"qrstuvwx"]


DAY = dt.date(2013, 1, 1)
COLUMNS = {
    "int8": pa.array([1, -2, 3, 4, 5], pa.int8()),
    "int64": pa.array([1, None, 3, 4, 5], pa.int64()),
    "half": pa.array(np.array([0.5, 1, 2, 3, 4], np.float16)),
    "float64": pa.array([0.5, 1, None, 3, 4]),
    "bool": pa.array([True, False, None, True, False]),
    "decimal": pa.array([decimal.Decimal(i) / 4 for i in range(5)], pa.decimal128(9, 2)),
    "fixed": pa.array([b"abc", b"def", None, b"jkl", b"mno"], pa.binary(3)),
    "time": pa.array([DAY, DAY, None, DAY, DAY], pa.date32()),
    "stamp": pa.array([10, 20, 30, None, 50], pa.timestamp("us", "UTC")),
    "text": pa.array(["", "a", None, "dddd", "é" * 9]),
    "long": pa.array(["x" * 300, None, "y" * 500, "", "z" * 70], pa.large_string()),
    "bytes": pa.array([b"1", b"22", b"333", None, b""]),
    "null": pa.nulls(5),
    "list": pa.array([[1, 2], [], None, [3], [4, None]]),
    "struct": pa.array([{"a": i, "b": str(i)} for i in range(5)]),
    "colour": pa.array(["red", "blue", None, "red", "green"]).dictionary_encode(),
    "tags": pa.array([["u"], ["v", "u"], [], None, ["w"]]),
}


@pytest.fixture(params=["none", "lz4", "zstd"])
def world(request):
    """Return a gatherer, an arena with three chunks of five rows, their slots and the chunks as users see them."""
    table = pa.table(COLUMNS)
    dictionaries = Dictionaries.from_tables(table.schema, [table])
    physical, logical = shard_schema(table.schema), logical_schema(table.schema)
    rng = np.random.default_rng(0)
    chunks = []
    for number in range(3):
        rows = table.take(rng.integers(0, 5, 5)) if number else table
        rows = dictionaries.encode(rows).append_column("sample_id", pa.array(np.arange(5) + 5 * number))
        chunks.append(rows.cast(physical).combine_chunks().to_batches()[0])
    raw, ranges = encode_shard(chunks, request.param, schema=physical)
    gatherer = Gatherer(physical, logical, [*COLUMNS, "sample_id"], dictionaries)
    arena = Arena(1 << 20, 8, gatherer.buffers)
    slots = []
    for start, end in ranges:
        view = memoryview(raw)[start:end]
        slots.append(arena.put(gatherer.locate(view, decode_chunk(view, physical))))
    return gatherer, arena, slots, [dictionaries.decode(chunk) for chunk in chunks]


@given(data=st.data())
@settings(max_examples=25, deadline=None, derandomize=True)
def gathered_equals_taken(world, data):
    gatherer, arena, slots, chunks = world
    which = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=5))
    rows = [data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=6)) for _ in which]
    flat = np.concatenate(rows).astype(np.int64)
    order = np.array(data.draw(st.permutations(range(len(flat)))), np.int64)
    counts = np.array([len(r) for r in rows], np.int64)
    found = gatherer.gather(arena, np.array([slots[w] for w in which]), counts, flat, order)
    found.validate(full=True)
    expected = pa.concat_batches([chunks[w].take(pa.array(r)) for w, r in zip(which, rows, strict=True)])
    assert found.equals(expected.take(pa.array(order)))
    unordered = gatherer.gather(arena, np.array([slots[w] for w in which]), counts, flat)
    assert unordered.equals(expected)


def test_gathering_is_taking_from_each_chunk_and_joining(world):
    gathered_equals_taken(world)


def test_gathering_after_moving_gives_the_same(world):
    gatherer, arena, slots, chunks = world
    arena.free(slots[0])
    arena.compact()
    assert arena.starts[slots[1]] == 0
    found = gatherer.gather(arena, np.array(slots[1:]), np.array([5, 5]), np.tile(np.arange(5), 2))
    assert found.equals(pa.concat_batches(chunks[1:]))
