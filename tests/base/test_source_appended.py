"""Data that are added to a source extend its sample ids: nothing is renumbered and no row changes its split."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sourcekit import FaultyStore, damage, random_table, upload, write

from foreshard.source import Snapshot, SourceReader, take_snapshot, taking
from foreshard.splits import assign_splits, check_splits_stable, hash_keys

SHARES = {"train": 0.7, "validation": 0.2, "test": 0.1}


def _rows(start, count):
    ids = range(start, start + count)
    return pa.table({"row": pa.array(ids, pa.int64()), "key": [f"customer {i % 40}" for i in ids]})


def _keys(snapshot):
    return [file.key for file in snapshot.files]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    for number, name in enumerate(("m", "p")):
        pq.write_table(_rows(10 * number, 10), folder / f"{name}.parquet")
    return folder


def test_new_files_come_after_those_that_were_there(folder):
    first = take_snapshot(folder.as_uri())
    for number, name in enumerate(("z", "a", "n")):
        pq.write_table(_rows(100 + 10 * number, 5), folder / f"{name}.parquet")
    second = take_snapshot(folder.as_uri(), previous=first)
    assert _keys(second) == ["m.parquet", "p.parquet", "a.parquet", "n.parquet", "z.parquet"]
    assert second.extends(first)
    assert not first.extends(second)
    assert SourceReader(second, ["row"]).take(np.arange(20))["row"].to_pylist() == list(range(20))
    # The order is part of the state: files in key order alone are other ids, so another fingerprint.
    assert take_snapshot(folder.as_uri()).fingerprint != second.fingerprint
    assert take_snapshot(folder.as_uri(), previous=second).fingerprint == second.fingerprint
    assert take_snapshot(folder.as_uri(), previous=second) == second


@pytest.mark.parametrize("change", ["gone", "other"])
def test_a_source_that_lost_what_it_had_is_another_state_in_key_order(folder, change):
    first = take_snapshot(folder.as_uri())
    pq.write_table(_rows(100, 5), folder / "a.parquet")
    second = take_snapshot(folder.as_uri(), previous=first)
    if change == "gone":
        (folder / "m.parquet").unlink()
    else:
        pq.write_table(_rows(500, 10), folder / "m.parquet")
    third = take_snapshot(folder.as_uri(), previous=second)
    assert _keys(third) == sorted(_keys(third))
    assert not third.extends(second)
    assert third == take_snapshot(folder.as_uri())


def test_files_whose_tag_stands_are_not_read_again(tmp_path, any_location, monkeypatch):
    upload(write(tmp_path / "source", random_table(1500), random_table(10, seed=1)), any_location.open())
    url, endpoint = any_location.url, any_location.endpoint
    first = take_snapshot(url, endpoint=endpoint)
    store = FaultyStore(any_location.open(), iter(lambda: None, 0))
    monkeypatch.setattr(taking.ObjectStore, "open", lambda *_, **__: store)
    assert take_snapshot(url, endpoint=endpoint, previous=first) == first
    assert store.reads == []
    upload(write(tmp_path / "more", random_table(5, seed=2), random_table(10, seed=1)), any_location.open())
    third = take_snapshot(url, endpoint=endpoint, previous=first)
    assert third.fingerprint == take_snapshot(url, endpoint=endpoint).fingerprint
    assert {key for key, _, _ in store.reads} >= {"part-00.parquet"}


def test_a_source_that_moved_is_read_anew_and_keeps_its_order(folder, tmp_path):
    first = take_snapshot(folder.as_uri())
    pq.write_table(_rows(100, 5), folder / "a.parquet")
    second = take_snapshot(folder.as_uri(), previous=first)
    moved = shutil.copytree(folder, tmp_path / "moved")
    damage(moved / "p.parquet", 20)
    assert _keys(take_snapshot(moved.as_uri(), previous=second)) == ["a.parquet", "m.parquet", "p.parquet"]
    damage(moved / "p.parquet", 20)
    assert take_snapshot(moved.as_uri(), previous=second).fingerprint == second.fingerprint


def test_a_snapshot_without_checksums_can_be_extended_by_reading_it_again(folder):
    first = take_snapshot(folder.as_uri())
    bare = Snapshot.from_json(first.to_json())
    pq.write_table(_rows(100, 5), folder / "a.parquet")
    second = take_snapshot(folder.as_uri(), previous=bare)
    assert second.extends(first)
    assert SourceReader(second, ["row"]).take(np.array([0, 20]))["row"].to_pylist() == [0, 100]


@settings(max_examples=10)
@given(
    seed=st.integers(0, 2**32),
    names=st.lists(st.integers(0, 10**6), min_size=11, max_size=11, unique=True),
    rows=st.lists(st.integers(1, 30), min_size=11, max_size=11),
    by_key=st.booleans(),
)
def test_splits_are_stable_over_ten_appended_snapshots(tmp_path_factory, seed, names, rows, by_key):
    folder = tmp_path_factory.mktemp("grown")
    snapshot, codes = None, np.empty(0, np.uint8)
    for number, (name, count) in enumerate(zip(names, rows, strict=True)):
        pq.write_table(_rows(sum(rows[:number]), count), folder / f"{name}.parquet")
        later = take_snapshot(folder.as_uri(), previous=snapshot)
        assert snapshot is None or later.extends(snapshot)
        snapshot = later
        table = pa.concat_tables(table for _, table in SourceReader(snapshot).scan())
        assert table["row"].to_pylist() == list(range(snapshot.rows)), "a sample keeps its id"
        keys = hash_keys(table["key"].to_pylist()) if by_key else np.arange(snapshot.rows)
        found = assign_splits(keys, SHARES, seed)
        check_splits_stable(codes, found)
        codes = found
    if by_key:
        of_key = {}
        for key, code in zip(table["key"].to_pylist(), codes, strict=True):
            assert of_key.setdefault(key, code) == code, "rows of one key are in one split"
