"""What every store must do, the same way: in memory, on a local folder, on SeaweedFS and, where given, on MinIO."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from foreshard.errors import ConfigError, ConflictError, ObjectExistsError, ObjectNotFoundError, StorageError
from foreshard.storage import ObjectStore

MIB = 1 << 20


def _race(count, work):
    """Run `work(i)` in threads that start together, and return what each returned."""
    barrier = threading.Barrier(count)

    def run(i):
        barrier.wait(10)
        return work(i)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def test_what_was_put_is_read_back_and_replaced_whole(any_store):
    any_store.put("a/b", b"first")
    assert any_store.get("a/b") == b"first"
    any_store.put("a/b", memoryview(b"second, longer"))
    assert any_store.get("a/b") == b"second, longer"
    any_store.put("a/empty", b"")
    assert any_store.get("a/empty") == b""


def test_a_large_object_survives_the_upload_in_parts(any_store):
    data = np.random.default_rng(0).integers(0, 256, 12 * MIB + 17, np.uint8).tobytes()
    any_store.put("large", data)
    assert any_store.get("large") == data
    assert any_store.create("large-at-once", data) is True
    assert bytes(any_store.get_range("large-at-once", 11 * MIB, 12 * MIB + 17)) == data[11 * MIB :]


@pytest.mark.parametrize("key", ["ü ñ/日本", "a b/c+d=e&f", "per%20cent", "dots.in.name/v1.2", "h#sh?query"])
def test_keys_with_unusual_characters_keep_their_names(any_store, key):
    any_store.put(key, b"x")
    assert [meta.key for meta in any_store.list("")] == [key]
    assert any_store.get(key) == b"x"


def test_exactly_one_of_eight_racing_creators_wins(any_store):
    stop = time.monotonic() + 2  # SeaweedFS lets each loser wait for whole seconds, others are done in no time
    for attempt in range(20):
        key = f"race/{attempt}"

        def create(i, key=key):
            try:
                return any_store.create(key, f"writer {i}".encode())
            except ObjectExistsError:
                return False

        won = _race(8, create)
        assert won.count(True) == 1
        assert any_store.get(key) == f"writer {won.index(True)}".encode()
        if time.monotonic() > stop:
            break


def test_creating_equal_content_again_reports_that_it_was_there(any_store):
    assert any_store.create("a", b"same") is True
    assert any_store.create("a", b"same") is False
    assert any_store.create("a", memoryview(b"same")) is False
    with pytest.raises(ObjectExistsError, match=r"'a' in .* exists already with other content"):
        any_store.create("a", b"other")
    assert any_store.get("a") == b"same"


def test_swap_replaces_only_what_was_read(any_store):
    any_store.swap("p", b"1", None)
    raw, tag = any_store.get_tagged("p")
    assert raw == b"1"
    any_store.swap("p", b"2", tag)
    with pytest.raises(ConflictError, match=r"'p' in .* was replaced by someone else meanwhile; read it again"):
        any_store.swap("p", b"3", tag)
    with pytest.raises(ConflictError, match=r"'p' in .* created by someone else"):
        any_store.swap("p", b"3", None)
    with pytest.raises(ConflictError):
        any_store.swap("never written", b"3", tag)
    assert any_store.get("p") == b"2"
    assert not any_store.exists("never written")


def test_no_compare_and_swap_increment_is_lost(any_store):
    any_store.swap("counter", json.dumps({"n": 0, "by": None}).encode(), None)

    def increment(thread):
        for i in range(25):
            while True:
                raw, tag = any_store.get_tagged("counter")
                new = json.dumps({"n": json.loads(raw)["n"] + 1, "by": [thread, i]}).encode()
                try:
                    any_store.swap("counter", new, tag)
                except ConflictError:
                    continue
                break

    _race(4, increment)
    assert json.loads(any_store.get("counter"))["n"] == 100


def test_only_one_of_three_racers_makes_the_first_swap(any_store):
    def swap(i):
        try:
            any_store.swap("first", f"writer {i}".encode(), None)
        except ConflictError:
            return False
        return True

    won = _race(3, swap)
    assert won.count(True) == 1
    assert any_store.get("first") == f"writer {won.index(True)}".encode()


def test_swaps_leave_nothing_in_a_listing_but_the_object(any_store):
    any_store.swap("p", b"1", None)
    any_store.swap("p", b"2", any_store.get_tagged("p")[1])
    assert [meta.key for meta in any_store.list("")] == ["p"]
    any_store.put(".locksmith/a", b"x")
    assert [meta.key for meta in any_store.list("")] == [".locksmith/a", "p"]


def test_ranges_give_exactly_their_bytes(any_store):
    data = np.random.default_rng(1).integers(0, 256, 100_000, np.uint8).tobytes()
    any_store.put("data", data)
    for start, end in [(0, 1), (0, 100_000), (99_999, 100_000), (12_345, 54_321), (7, 7), (100_000, 100_000)]:
        assert bytes(any_store.get_range("data", start, end)) == data[start:end]


def test_many_ranges_come_in_the_order_asked_whatever_is_merged(any_store):
    data = np.random.default_rng(2).integers(0, 256, 5 * MIB, np.uint8).tobytes()
    any_store.put("data", data)
    far_and_near = [(4 * MIB, 4 * MIB + 10), (0, 10), (10, 20), (5, 15), (0, 10), (3, 3), (5 * MIB - 1, 5 * MIB)]
    assert [bytes(v) for v in any_store.get_ranges("data", far_and_near)] == [data[s:e] for s, e in far_and_near]
    rng = np.random.default_rng(3)
    ranges = [(int(s), int(s + n)) for s, n in zip(rng.integers(0, 4 * MIB, 64), rng.integers(0, MIB, 64), strict=True)]
    assert [bytes(v) for v in any_store.get_ranges("data", ranges)] == [data[s:e] for s, e in ranges]
    assert any_store.get_ranges("data", []) == []


@pytest.mark.parametrize("span", [(5, 100), (11, 12), (500, 600), (5 * MIB, 6 * MIB)])
def test_a_range_beyond_the_end_is_refused_with_both_figures(any_store, span):
    any_store.put("short", b"hello world")
    words = f"'short' in .* has 11 bytes; a range up to {span[1]} was asked for"
    with pytest.raises(StorageError, match=words):
        any_store.get_range("short", *span)
    with pytest.raises(StorageError, match=words):
        any_store.get_ranges("short", [(0, 5), span])


@pytest.mark.parametrize("span", [(5, 3), (-1, 4)])
def test_what_is_no_range_is_refused(any_store, span):
    any_store.put("a", b"hello world")
    with pytest.raises(StorageError, match=rf"\[{span[0]}, {span[1]}\) is not a byte range of 'a'"):
        any_store.get_range("a", *span)
    with pytest.raises(StorageError, match="is not a byte range of 'a'"):
        any_store.get_ranges("a", [span])


def test_a_missing_key_is_named(any_store):
    any_store.put("there", b"x")
    for ask in (
        lambda: any_store.get("gone"),
        lambda: any_store.get_range("gone", 0, 4),
        lambda: any_store.get_ranges("gone", [(0, 4)]),
    ):
        with pytest.raises(ObjectNotFoundError, match="there is no object 'gone' in "):
            ask()
    assert any_store.get_tagged("gone") is None
    assert not any_store.exists("gone")
    assert any_store.exists("there")


def test_listing_gives_keys_in_order_with_sizes_below_whole_path_segments(any_store):
    sizes = {"runs/a/2": 2, "runs/a/10": 10, "runs/a/1": 1, "runs/ab/1": 3, "runs/a-b/1": 4, "other": 5, "Z": 6}
    for key, size in sizes.items():
        any_store.put(key, b"x" * size)
    assert [meta.key for meta in any_store.list("")] == sorted(sizes)
    for prefix in ("runs/a", "runs/a/"):
        found = list(any_store.list(prefix))
        assert [(meta.key, meta.size) for meta in found] == [("runs/a/1", 1), ("runs/a/10", 10), ("runs/a/2", 2)]
    assert all(meta.e_tag for meta in any_store.list("runs"))
    assert list(any_store.list("nothing/here")) == []


def test_listing_after_a_key_goes_on_behind_it(any_store):
    keys = [f"runs/r/e{epoch:06d}.json" for epoch in range(12)]
    for key in reversed(keys):
        any_store.put(key, b"x")
    any_store.put("runs/s/e000000.json", b"x")
    for after in (0, 5, 11):
        assert [m.key for m in any_store.list("runs/r/", after=keys[after])] == keys[after + 1 :]
    assert [m.key for m in any_store.list("runs/r/", after="runs/r/e000004")] == keys[4:]


def test_listing_goes_beyond_one_page_of_a_server(any_store):
    keys = [f"many/{i:05d}" for i in range(1100)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: any_store.put(key, b"x"), keys))
    assert [meta.key for meta in any_store.list("many")] == keys
    assert [meta.key for meta in any_store.list("many", after=keys[1049])] == keys[1050:]
    any_store.delete(keys)
    assert list(any_store.list("")) == []


def test_deleting_passes_over_what_is_not_there_and_spares_the_rest(any_store):
    for key in ("a", "b/c", "b/d", "keep"):
        any_store.put(key, b"x")
    any_store.delete([])
    any_store.delete(["a", "gone", "b/c", "a", "b/d"])
    assert [meta.key for meta in any_store.list("")] == ["keep"]
    any_store.delete(["gone"])


@pytest.mark.parametrize("key", ["../outside", "a/../../outside", "/../outside"])
def test_keys_cannot_leave_the_store(any_store, key):
    for ask in (lambda: any_store.put(key, b"x"), lambda: any_store.get(key), lambda: any_store.create(key, b"x")):
        with pytest.raises(StorageError, match="outside"):
            ask()
    assert list(any_store.list("")) == []


def test_stores_below_different_prefixes_do_not_see_each_other(any_location):
    store = any_location.open()
    inner = ObjectStore.open(f"{any_location.url}/inner", endpoint=any_location.endpoint)
    store.put("a", b"outer")
    inner.put("a", b"inner")
    assert [meta.key for meta in inner.list("")] == ["a"]
    assert [meta.key for meta in store.list("")] == ["a", "inner/a"]
    assert store.get("inner/a") == b"inner"


def test_another_opener_sees_and_races_on_the_same_objects(any_location):
    first, second = any_location.open(), any_location.open()
    first.swap("p", b"1", None)
    raw, tag = second.get_tagged("p")
    first.swap("p", b"2", tag)
    assert raw == b"1"
    with pytest.raises(ConflictError):
        second.swap("p", b"3", tag)


def test_tables_are_read_through_the_filesystem_view(any_location):
    store = any_location.open()
    table = pa.table({"x": np.arange(1000), "y": [f"row {i}" for i in range(1000)]})
    for part in range(2):
        sink = pa.BufferOutputStream()
        pq.write_table(table.slice(500 * part, 500), sink, row_group_size=100)
        store.put(f"tables/part {part}.parquet", sink.getvalue().to_pybytes())
    filesystem, base = store.filesystem()
    found = ds.dataset(f"{base}/tables", filesystem=filesystem, format="parquet").to_table()
    assert found.equals(table)
    # A listing that was read before must not hide what was written since.
    store.put("tables/part 2.parquet", sink.getvalue().to_pybytes())
    assert ds.dataset(f"{base}/tables", filesystem=filesystem, format="parquet").count_rows() == 1500


def test_memory_has_no_filesystem_view():
    with pytest.raises(ConfigError, match="memory:// has no filesystem view; use a file:// or s3:// store"):
        ObjectStore.open("memory://").filesystem()


def test_folders_are_the_next_path_segments_alone(any_store):
    for key in ("runs/a/epochs/e1", "runs/a/logs/x", "runs/b/epochs/e1", "runs/file", "other/c/d"):
        any_store.put(key, b"1")
    assert any_store.folders("runs/") == ["a", "b"]
    assert any_store.folders("runs") == ["a", "b"]
    assert any_store.folders("runs/a") == ["epochs", "logs"]
    assert any_store.folders("nothing") == []
