"""Content-addressed puts, unfinished uploads and the observer of writes, on every store."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from foreshard import storage_writes
from foreshard.errors import AccessDeniedError, ConfigError, ObjectExistsError, StorageError
from foreshard.storage import ObjectStore, Timeouts, Upload, Write

MIB = 1 << 20

# Begins to write an object and waits to be killed.
WRITER = """
import sys, time
import obstore
from obstore.store import LocalStore

def pieces():
    yield b"x" * (6 << 20)
    print("begun", flush=True)
    time.sleep(300)

obstore.put(LocalStore(sys.argv[1], mkdir=True), sys.argv[2], pieces(), chunk_size=5 << 20)
"""


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(storage_writes, "MULTIPART_BYTES", 6 * MIB)
    monkeypatch.setattr(storage_writes, "_PART_BYTES", 5 * MIB)


def _random(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8).tobytes()


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("size", [0, 1000, 6 * MIB - 1, 6 * MIB, 17 * MIB + 3])
def test_content_is_written_once_whole_or_in_parts(any_store, size):
    data = _random(size)
    assert any_store.put_content("shards/digest", memoryview(data)) is True
    assert any_store.get("shards/digest") == data
    assert any_store.put_content("shards/digest", data) is False
    again = any_store.put_content("shards/digest", data, known_absent=True)
    assert again is (size >= 6 * MIB), "parts cannot be create-only"
    assert any_store.get("shards/digest") == data
    assert any_store.uploads("") == []


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("size", [1000, 7 * MIB])
def test_an_object_of_another_size_than_its_content_is_told_and_kept(any_store, size):
    any_store.put("digest", b"cut off")
    with pytest.raises(StorageError, match=rf"'digest' in .* has 7 bytes, but .* has {size}: it is damaged; delete it"):
        any_store.put_content("digest", _random(size))
    assert any_store.get("digest") == b"cut off"


def test_content_that_appears_meanwhile_counts_as_there(any_store):
    any_store.put("digest", b"same")
    assert any_store.put_content("digest", b"same", known_absent=True) is False
    with pytest.raises(StorageError, match="has 4 bytes, but the content it is named for has 5"):
        any_store.put_content("digest", b"other", known_absent=True)


def test_a_foreign_object_of_another_size_is_not_read_to_compare_it(any_store, monkeypatch):
    any_store.put("a", b"large")
    monkeypatch.setattr(ObjectStore, "get", lambda *_: pytest.fail("it was read"))
    with pytest.raises(ObjectExistsError):
        any_store.create("a", b"x")


def test_the_observer_sees_each_write_before_and_after_it_had_its_effect(any_store):
    any_store.put("old", b"1")
    seen = []
    any_store.on_write = lambda write: seen.append((write.action, write.key, write.done))
    any_store.put("p", b"1")
    any_store.create("c", b"1")
    any_store.create("c", b"1")
    any_store.put_content("d", b"1")
    any_store.put_content("d", b"1")
    any_store.swap("old", b"2", any_store.get_tagged("old")[1])
    with pytest.raises(StorageError):
        any_store.swap("old", b"3", "stale")
    any_store.delete(["p", "c"])
    any_store.delete([])
    assert seen == [
        ("put", "p", False),
        ("put", "p", True),
        ("create", "c", False),
        ("create", "c", True),
        ("create", "c", False),
        ("create", "d", False),
        ("create", "d", True),
        ("swap", "old", False),
        ("swap", "old", True),
        ("swap", "old", False),
        ("delete", "p", False),
        ("delete", "p", True),
    ]


def test_what_the_observer_raises_stops_the_write_there(any_store):
    def stop(write):
        if write == Write("put", "a", done=False) or write == Write("put", "b", done=True):
            raise KeyError(write.key)

    any_store.on_write = stop
    for key in ("a", "b"):
        with pytest.raises(KeyError):
            any_store.put(key, b"x")
    assert [meta.key for meta in any_store.list("")] == ["b"]


def test_unfinished_uploads_are_listed_and_aborted_within_the_prefix_alone(s3_server):
    bucket = s3_server.create_bucket()
    store = ObjectStore.open(f"s3://{bucket}/my data", endpoint=s3_server.endpoint)
    inside = ["my data/a/1", "my data/a/2 ü", "my data/a/b/3"]
    outside = ["my data/ab/1", "my data/top", "my data2/a/1", "a/1"]
    with s3_server.client() as client:
        for key in [*inside, *outside]:
            upload = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
            client.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"x")
        found = store.uploads("a")
        assert sorted(upload.key for upload in found) == ["a/1", "a/2 ü", "a/b/3"]
        assert all(abs(datetime.now(UTC) - upload.started) < timedelta(hours=1) for upload in found)
        assert found == store.uploads("a/") == sorted(found, key=lambda upload: (upload.started, upload.key))
        assert len(store.uploads("")) == 5
        seen = []
        store.on_write = lambda write: seen.append((write.action, write.key, write.done))
        store.abort_uploads(found)
        store.abort_uploads(found)
        assert seen[:2] == [("abort", found[0].key, False), ("abort", found[0].key, True)]
        left = client.list_multipart_uploads(Bucket=bucket, Prefix="").get("Uploads", [])
        assert sorted(upload["Key"] for upload in left) == sorted(outside)
    assert list(store.list("")) == []


def test_uploads_of_a_missing_bucket_or_with_a_wrong_secret_are_told(s3_server, monkeypatch):
    bucket = s3_server.create_bucket()
    store = ObjectStore.open(f"s3://{bucket}", endpoint=s3_server.endpoint)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    with pytest.raises(AccessDeniedError, match="check AWS_ACCESS_KEY_ID"):
        store.uploads("")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    s3_server.delete_bucket(bucket)
    with pytest.raises(StorageError, match=bucket):
        store.uploads("")


def test_what_a_killed_writer_leaves_in_a_folder_is_listed_and_removed(tmp_path):
    for key in ("a/one", "a/b/two ü", "ab/three"):
        command = [sys.executable, "-c", WRITER, str(tmp_path), key]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout.readline() == b"begun\n"
            writer.kill()
    store = ObjectStore.open(tmp_path.as_uri())
    store.put("a/whole", b"x")
    assert [meta.key for meta in store.list("")] == ["a/whole"]
    found = store.uploads("a")
    assert [(upload.key, upload.upload_id) for upload in found] == [("a/one", "one#1"), ("a/b/two ü", "two ü#1")]
    store.abort_uploads(found)
    store.abort_uploads(found)
    assert [upload.key for upload in store.uploads("")] == ["ab/three"]
    assert store.get("a/whole") == b"x"


@pytest.mark.parametrize(
    ("key", "upload_id"), [("a", "a"), ("a", "b#1"), ("../a", "a#1"), ("x/../../a", "a#1"), ("a", "../a#1")]
)
def test_only_what_an_upload_leaves_is_ever_removed_from_a_folder(tmp_path, key, upload_id):
    for path in (tmp_path / "a", tmp_path / "a#1", tmp_path / "s" / "a", tmp_path / "s" / "b#1"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    store = ObjectStore.open((tmp_path / "s").as_uri())
    with pytest.raises(StorageError, match="is no unfinished upload of"):
        store.abort_uploads([Upload(key, upload_id, datetime.now(UTC))])
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 4


def test_a_prefix_outside_the_folder_is_refused(tmp_path):
    with pytest.raises(StorageError, match="leads outside the store"):
        ObjectStore.open((tmp_path / "s").as_uri()).uploads("../")


@pytest.mark.parametrize("values", [{"read": 0}, {"request": -1}, {"retries": -1}])
def test_timeouts_that_mean_nothing_are_refused(values):
    with pytest.raises(ConfigError, match="is not usable: give a number above 0"):
        Timeouts(**values)
