import hashlib
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from access_world import CHUNK_OF, GENERATION, KEYS, STEPS, batches, new_store, open_writer, record
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshard.access.schema import (
    EVENT_SCHEMA,
    SAMPLE_SCHEMA,
    LogHeader,
    describe_steps,
    phase_of,
    step_ranges,
    steps_in,
)
from foreshard.errors import ConfigError, LogError, ObjectExistsError, StorageError


def table_of(store, log):
    return pq.read_table(pa.BufferReader(store.get(log.key)))


def ints(*values):
    return np.array(values, np.int32)


def test_nothing_reaches_the_store_before_close():
    store = new_store()
    writer = open_writer(store)
    for step, ids in enumerate(batches(1, 0)):
        record(writer, step, ids)
    assert list(store.list("")) == []
    writer.close()
    assert [meta.key.rpartition("/")[2] for meta in store.list("")] == [
        "events-r0000-first.parquet",
        "samples-r0000-first.parquet",
    ]


def test_objects_describe_what_is_in_the_store():
    store = new_store()
    writer = open_writer(store, epoch=3, rank=1)
    for step, ids in enumerate(batches(3, 1)):
        record(writer, step, ids)
    objects = writer.close()
    assert [(log.kind, log.rank) for log in objects] == [("events", 1), ("samples", 1)]
    for log in objects:
        raw = store.get(log.key)
        assert log.key == KEYS.log("demo", 3, 1, "first", log.kind)
        assert (log.size, log.sha256) == (len(raw), hashlib.sha256(raw).hexdigest())
        assert log.rows == table_of(store, log).num_rows > 0


def test_events_have_one_row_per_touch_with_phase_and_costs():
    store = new_store()
    writer = open_writer(store, epoch=2, rank=1, steps=10, phases=4)
    writer.touches(0, ints(7), np.array([True]), ints(512), ints(0), ints(0))
    writer.touches(9, ints(5, 2), np.array([False, True]), ints(600, 700), ints(30, 0), ints(44, 0))
    table = table_of(store, writer.close()[0])
    assert table.schema.equals(EVENT_SCHEMA)
    assert table.to_pylist() == [
        event(0, 0, 7, hit=True, costs=(512, 0, 0)),
        event(9, 3, 2, hit=True, costs=(700, 0, 0)),
        event(9, 3, 5, hit=False, costs=(600, 30, 44)),
    ]


def event(step, phase, chunk, *, hit, costs):
    who = {"run": "demo", "generation": GENERATION, "epoch": 2, "rank": 1}
    return {**who, "step": step, "phase": phase, "chunk": chunk, "hit": hit} | dict(
        zip(("bytes", "wait_us", "fetch_us"), costs, strict=True)
    )


def test_samples_are_counted_per_phase():
    store = new_store()
    writer = open_writer(store, steps=4, phases=2)
    writer.samples(0, np.array([5, 5, 3]))
    writer.samples(1, np.array([5]))
    writer.samples(3, np.array([5, 9]))
    table = table_of(store, writer.close()[1])
    assert table.schema.equals(SAMPLE_SCHEMA)
    rows = [(row["epoch"], row["phase"], row["sample_id"], row["count"]) for row in table.to_pylist()]
    assert rows == [(1, 0, 3, 1), (1, 0, 5, 3), (1, 1, 5, 1), (1, 1, 9, 1)]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, STEPS - 1), st.lists(st.integers(0, 199), max_size=20)), max_size=15),
    st.integers(1, STEPS),
)
def test_every_draw_is_counted_once_in_its_phase(draws, phases):
    store = new_store()
    writer = open_writer(store, phases=phases)
    expected = {}
    for step, ids in draws:
        writer.samples(step, np.array(ids, np.int64))
        for i in ids:
            expected[step * phases // STEPS, i] = expected.get((step * phases // STEPS, i), 0) + 1
    table = table_of(store, writer.close()[1])
    assert {(row["phase"], row["sample_id"]): row["count"] for row in table.to_pylist()} == expected
    assert table.num_rows == len(expected)


def test_bytes_do_not_depend_on_the_order_in_which_threads_append():
    one, two = new_store(), new_store()
    forth, back = open_writer(one), open_writer(two)
    steps = list(enumerate(batches(1, 0)))
    for step, ids in steps:
        record(forth, step, ids)
    for step, ids in reversed(steps):
        record(back, step, ids[::-1])
    assert forth.close() == back.close()


def test_later_changes_to_a_callers_buffers_do_not_change_the_log():
    store = new_store()
    writer = open_writer(store)
    ids, chunks = np.array([4, 5]), ints(1, 2)
    writer.samples(0, ids)
    writer.touches(0, chunks, np.array([True, True]), chunks, chunks, chunks)
    ids[:], chunks[:] = 99, 9
    events, samples = writer.close()
    assert table_of(store, samples).column("sample_id").to_pylist() == [4, 5]
    assert table_of(store, events).column("chunk").to_pylist() == [1, 2]


def test_an_idle_rank_writes_empty_objects_that_still_cover_their_steps():
    store = new_store()
    writer = open_writer(store)
    none = ints()
    for step in range(STEPS):
        writer.touches(step, none, none.astype(bool), none, none, none)
        writer.samples(step, none.astype(np.int64))
    for log in writer.close():
        table = table_of(store, log)
        assert table.num_rows == log.rows == 0
        assert LogHeader.from_metadata(table.schema.metadata).recorded == ((0, STEPS),)


def test_close_again_writes_nothing_and_returns_the_same():
    store = new_store()
    writer = open_writer(store)
    record(writer, 0, np.array([1, 2]))
    assert writer.close() == writer.close()


def test_a_close_retried_by_another_writer_meets_its_own_objects():
    store = new_store()
    lost, retried = open_writer(store), open_writer(store)
    for writer in (lost, retried):
        record(writer, 0, np.array([1, 2]))
    assert lost.close() == retried.close()


def test_a_close_that_failed_halfway_is_done_by_closing_again(monkeypatch):
    store = new_store()
    writer, whole = open_writer(store), open_writer(new_store())
    for one in (writer, whole):
        record(one, 0, np.array([1, 2]))
    create = store.create

    def lost(key, raw):
        if "samples" in key:
            raise StorageError("the store went away")
        create(key, raw)

    monkeypatch.setattr(store, "create", lost)
    with pytest.raises(StorageError, match="went away"):
        writer.close()
    monkeypatch.undo()
    assert [meta.key.rpartition("/")[2] for meta in store.list("")] == ["events-r0000-first.parquet"]
    assert writer.close() == whole.close()
    assert len(list(store.list(""))) == 2


def test_another_attempt_under_the_same_write_id_is_refused():
    store = new_store()
    first, second = open_writer(store), open_writer(store)
    record(first, 0, np.array([1, 2]))
    record(second, 0, np.array([1, 150]))
    first.close()
    with pytest.raises(ObjectExistsError, match=r"events-r0000-first\.parquet"):
        second.close()


def test_appends_after_close_are_refused():
    writer = open_writer(new_store())
    writer.close()
    with pytest.raises(LogError, match="epoch 1, rank 0 is closed; step 3 comes too late"):
        record(writer, 3, np.array([1]))


@pytest.mark.parametrize("step", [-1, STEPS])
def test_steps_outside_the_epoch_are_refused(step):
    writer = open_writer(new_store())
    with pytest.raises(LogError, match=rf"step {step} is outside epoch 1, which has steps 0\.\.11"):
        writer.samples(step, np.array([1]))


def test_arrays_of_different_lengths_are_refused_naming_their_shapes():
    writer = open_writer(new_store())
    with pytest.raises(LogError, match=r"step 2 have the shapes chunk \(2,\), hit \(1,\)"):
        writer.touches(2, ints(1, 2), np.array([True]), ints(1, 2), ints(1, 2), ints(1, 2))


def test_a_chunk_touched_twice_at_a_step_is_refused():
    writer = open_writer(new_store())
    for _ in range(2):
        writer.touches(4, ints(8), np.array([True]), ints(1), ints(1), ints(1))
    with pytest.raises(LogError, match="chunk 8 is logged twice at step 4"):
        writer.close()


def test_values_that_would_wrap_around_are_refused():
    writer = open_writer(new_store())
    writer.touches(4, ints(8), np.array([True]), np.array([2**31]), ints(1), ints(1))
    with pytest.raises(LogError, match="bytes 2147483648 at step 4"):
        writer.close()


def test_negative_sample_ids_are_refused():
    writer = open_writer(new_store())
    writer.samples(4, np.array([3, -2]))
    with pytest.raises(LogError, match="sample id -2"):
        writer.close()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"epoch": 0}, LogError),
        ({"rank": -1}, LogError),
        ({"phases": 0}, LogError),
        ({"phases": STEPS + 1}, LogError),
        ({"run": "a/b"}, ConfigError),
        ({"write_id": "../x"}, ConfigError),
        ({"generation": "demo"}, ConfigError),
    ],
)
def test_an_impossible_identity_is_refused_at_once(changes, error):
    with pytest.raises(error):
        open_writer(new_store(), **changes)


@given(st.sets(st.integers(0, 60)))
def test_step_ranges_lose_no_step(steps):
    ranges = step_ranges(np.array(sorted(steps), np.int64))
    assert steps_in(ranges).tolist() == sorted(steps)
    assert all(stop < start for (_, stop), (start, _) in pairwise(ranges))


def test_steps_are_described_shortly():
    assert describe_steps(np.array([3])) == "3"
    assert describe_steps(np.array([9, 3, 4, 5])) == "3..5, 9"
    assert describe_steps(np.arange(0, 80, 2)) == "0, 2, 4, ... (40 in all)"


def test_phases_divide_an_epoch_evenly():
    assert phase_of(np.arange(10), 10, 4).tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert phase_of(np.array([2**31 - 2]), 2**31 - 1, 30_000).tolist() == [29_999]


def test_the_world_of_these_tests_touches_every_chunk():
    assert set(CHUNK_OF[np.concatenate([ids for rank in (0, 1) for ids in batches(1, rank)])]) == set(range(10))
