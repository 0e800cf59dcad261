"""Tables of any length: the rows come back as they were added, and few of them are held at a time."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import foreshard.chain.tables
from foreshard.access.schema import EVENT_SCHEMA, SAMPLE_SCHEMA
from foreshard.chain.tables import StoredTable, TableWriter
from foreshard.chain.work import Work
from foreshard.errors import CorruptDataError, StorageError
from foreshard.keys import DatasetKeys
from foreshard.storage import ObjectStore


def work_on(store):
    return Work(store, DatasetKeys("flights"), "demo.e000002")


def samples(rows, first=0):
    ids = np.arange(first, first + rows)
    columns = {"epoch": ids // 1000, "phase": ids % 2, "sample_id": ids, "count": ids % 5}
    return pa.table(columns).cast(SAMPLE_SCHEMA)


def events(generation, rows):
    columns = {name: np.arange(rows) % 2 for name in EVENT_SCHEMA.names} | {
        "run": ["demo"] * rows,
        "generation": [generation] * rows,
    }
    columns["hit"] = columns["hit"].astype(bool)
    return pa.table(columns).cast(EVENT_SCHEMA)


@given(sizes=st.lists(st.integers(0, 40), max_size=12))
def test_rows_come_back_in_order_however_they_were_added(sizes):
    work = work_on(ObjectStore.open("memory://"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(foreshard.chain.tables, "ROWS", 25)
        with TableWriter(SAMPLE_SCHEMA) as writer:
            starts = np.append(0, np.cumsum(sizes)).tolist()
            for first, size in zip(starts, sizes, strict=False):
                writer.add(samples(size, first))
            work.put_rows("samples", writer)
        assert writer.rows == sum(sizes)
    stored = work.rows("samples", stage="x")
    assert stored.schema.equals(SAMPLE_SCHEMA)
    assert stored.rows == sum(sizes)
    groups = list(stored.groups())
    assert all(group.num_rows <= 25 for group in groups)
    found = pa.concat_tables([SAMPLE_SCHEMA.empty_table(), *groups])
    assert found.equals(samples(sum(sizes)))
    assert work.table("samples", stage="x").equals(found)
    assert [group.schema.names for group in stored.groups(("count",))] == [["count"]] * len(groups)


def test_names_of_several_generations_share_a_column():
    work = work_on(ObjectStore.open("memory://"))
    with TableWriter(EVENT_SCHEMA) as writer:
        for generation in ("demo.e000000", "demo.e000002", "demo.e000000"):
            writer.add(events(generation, 3))
        work.put_rows("events", writer)
    (group,) = work.rows("events", stage="x").groups()
    assert group.schema.equals(EVENT_SCHEMA)
    names = group.column("generation").cast(pa.string()).to_pylist()
    assert names == ["demo.e000000"] * 3 + ["demo.e000002"] * 3 + ["demo.e000000"] * 3


def test_few_rows_are_held_at_a_time(any_location, monkeypatch):
    monkeypatch.setattr(foreshard.chain.tables, "ROWS", 200_000)
    work = work_on(any_location.open())
    whole = 40 * samples(100_000).nbytes
    held = []
    with TableWriter(SAMPLE_SCHEMA) as writer:
        before = pa.total_allocated_bytes()
        for number in range(40):
            writer.add(samples(100_000, number * 100_000))
            held.append(pa.total_allocated_bytes() - before)
        work.put_rows("samples", writer)
        held.append(pa.total_allocated_bytes() - before)
    before, rows = pa.total_allocated_bytes(), 0
    for group in work.rows("samples", stage="x").groups():
        rows += group.num_rows
        held.append(pa.total_allocated_bytes() - before)
    assert rows == 4_000_000
    assert max(held) < whole / 5


def test_what_was_not_finished_is_not_written():
    store = ObjectStore.open("memory://")

    def stop_halfway():
        with TableWriter(SAMPLE_SCHEMA) as writer:
            writer.add(samples(10))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_halfway()
    assert list(store.list("")) == []


def test_a_missing_table_names_the_stage_and_a_broken_one_its_key():
    store = ObjectStore.open("memory://")
    work = work_on(store)
    with pytest.raises(StorageError, match=r"run the stage access/events of generation demo\.e000002 first"):
        work.rows("samples", stage="access/events")
    with TableWriter(SAMPLE_SCHEMA) as writer:
        writer.add(samples(50_000))
        work.put_rows("samples", writer)
    (key,) = [meta.key for meta in store.list("")]
    raw = bytearray(store.get(key))
    raw[20:4000] = bytes(3980)
    store.put(key, bytes(raw))
    with pytest.raises(CorruptDataError, match=r"samples\.parquet.*run its stage again"):
        list(work.rows("samples", stage="x").groups())
    store.put(key, bytes(raw[:-10]))
    with pytest.raises(CorruptDataError, match=r"samples\.parquet.*run its stage again"):
        StoredTable(store, key)
