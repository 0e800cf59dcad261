"""What goes wrong with a store is a clear error within seconds, naming the value and the fix."""

import socket
import threading
import time
from contextlib import contextmanager

import pyarrow.parquet as pq
import pytest

from foreshard.errors import AccessDeniedError, ConfigError, StorageError, UnreachableError
from foreshard.storage import ObjectStore

DEADLINE = 15


@contextmanager
def _within(seconds):
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds, "the error is right, but it came too late"


@pytest.fixture
def some_credentials(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "some-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "some-secret")


def test_a_missing_bucket_is_named_with_its_endpoint(s3_server):
    words = f"the bucket of s3://no-such-bucket/x does not exist at {s3_server.endpoint}; create it first"
    with _within(DEADLINE), pytest.raises(UnreachableError, match=words):
        ObjectStore.open("s3://no-such-bucket/x", endpoint=s3_server.endpoint)


def test_a_bucket_that_goes_away_is_an_error_within_seconds(s3_server):
    bucket = s3_server.create_bucket()
    store = ObjectStore.open(f"s3://{bucket}", endpoint=s3_server.endpoint)
    store.put("a", b"x")
    s3_server.delete_bucket(bucket)
    for ask in (lambda: store.put("a", b"x"), lambda: list(store.list("")), lambda: store.get("a")):
        with _within(DEADLINE), pytest.raises(StorageError, match=bucket):
            ask()


def test_a_wrong_secret_is_refused_naming_the_variables_and_never_the_secret(s3_server, monkeypatch):
    bucket = s3_server.create_bucket()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    with _within(DEADLINE), pytest.raises(AccessDeniedError) as caught:
        ObjectStore.open(f"s3://{bucket}", endpoint=s3_server.endpoint)
    message = str(caught.value)
    assert "AWS_ACCESS_KEY_ID" in message
    assert "AWS_SECRET_ACCESS_KEY" in message
    assert s3_server.endpoint in message
    assert "not-the-secret" not in message
    assert s3_server.secret_key not in message


def test_an_unknown_access_key_is_refused(s3_server, monkeypatch):
    bucket = s3_server.create_bucket()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    with pytest.raises(AccessDeniedError, match="check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"):
        ObjectStore.open(f"s3://{bucket}", endpoint=s3_server.endpoint)


@pytest.mark.parametrize("present", [None, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_missing_credentials_are_told_before_anything_is_asked_of_a_server(monkeypatch, present):
    if present:
        monkeypatch.setenv(present, "something")
    with _within(DEADLINE), pytest.raises(AccessDeniedError, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        ObjectStore.open("s3://bucket", endpoint="http://127.0.0.1:9")


def test_credentials_come_from_the_aws_chain_where_the_variables_are_not_set(s3_server, monkeypatch, tmp_path):
    bucket = s3_server.create_bucket()
    profile = tmp_path / "credentials"
    profile.write_text(
        f"[tests]\naws_access_key_id = {s3_server.access_key}\naws_secret_access_key = {s3_server.secret_key}\n"
    )
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profile))
    monkeypatch.setenv("AWS_PROFILE", "tests")
    store = ObjectStore.open(f"s3://{bucket}", endpoint=s3_server.endpoint)
    assert store.create("a", b"x") is True
    filesystem, base = store.filesystem()
    assert filesystem.open_input_file(f"{base}/a").read() == b"x"


def test_the_endpoint_may_come_from_the_environment(s3_server, monkeypatch):
    bucket = s3_server.create_bucket()
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    store = ObjectStore.open(f"s3://{bucket}")
    store.put("a", b"x")
    assert store.endpoint == s3_server.endpoint


@pytest.mark.usefixtures("some_credentials")
def test_an_endpoint_where_nothing_listens_is_named_with_the_fix():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    words = rf"s3://bucket at {endpoint} cannot be reached .*check that the endpoint is right and its server runs"
    with _within(10), pytest.raises(UnreachableError, match=words):
        ObjectStore.open("s3://bucket", endpoint=endpoint)


@pytest.mark.usefixtures("some_credentials")
def test_an_endpoint_that_accepts_but_never_answers_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with _within(DEADLINE), pytest.raises(UnreachableError, match=f"{endpoint} cannot be reached"):
            ObjectStore.open("s3://bucket", endpoint=endpoint)


@pytest.mark.usefixtures("some_credentials")
def test_a_server_that_is_no_s3_server_is_told():
    def answer(listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnope")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(UnreachableError, match="check that the endpoint is an S3 server"):
            ObjectStore.open("s3://bucket", endpoint=endpoint)
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("url", ["ftp://host/x", "/data/store", "s3://", "s3:///prefix", "", "file://host/x", "file:"])
def test_a_url_of_no_known_kind_is_refused_with_the_kinds(url):
    with pytest.raises(ConfigError, match=r"store URL .* is not usable: ") as caught:
        ObjectStore.open(url)
    assert repr(url) in str(caught.value)


@pytest.mark.parametrize("url", ["s3://key:hush@bucket", "s3://key:hush@bucket/p", "file:///a#b", "file:///a?b"])
def test_credentials_and_stray_characters_in_a_url_are_refused_without_repeating_them(url):
    with pytest.raises(ConfigError, match=r"give credentials by AWS_ACCESS_KEY_ID") as caught:
        ObjectStore.open(url)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["127.0.0.1:9000", "localhost", "s3://x"])
def test_an_endpoint_that_is_no_url_is_refused(endpoint):
    with pytest.raises(ConfigError, match=f"S3 endpoint '{endpoint}' is not usable: give its URL"):
        ObjectStore.open("s3://bucket", endpoint=endpoint)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UnreachableError, match=r"store folder '.*/file/store' cannot be made"):
        ObjectStore.open((tmp_path / "file" / "store").as_uri())


def test_a_missing_folder_is_refused_and_not_made_where_it_must_exist(tmp_path):
    with pytest.raises(UnreachableError, match=r"there is no folder '.*/gone'; check the URL"):
        ObjectStore.open((tmp_path / "gone").as_uri(), must_exist=True)
    assert not (tmp_path / "gone").exists()


def test_a_folder_with_unusual_characters_is_the_one_its_url_names(tmp_path):
    folder = tmp_path / "ü #1 100%?"
    ObjectStore.open(folder.as_uri()).put("a", b"x")
    assert (folder / "a").read_bytes() == b"x"
    filesystem, base = ObjectStore.open(folder.as_uri()).filesystem()
    assert filesystem.open_input_file(f"{base}/a").read() == b"x"


def test_a_table_that_is_not_one_fails_on_reading_it(any_location):
    store = any_location.open()
    store.put("t.parquet", b"not a table at all")
    filesystem, base = store.filesystem()
    with pytest.raises(ValueError, match="Parquet magic bytes"):
        pq.read_table(f"{base}/t.parquet", filesystem=filesystem)
