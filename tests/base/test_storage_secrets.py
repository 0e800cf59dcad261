"""Credentials appear nowhere: not in errors, logs, reprs, output, URLs or objects, whether requests succeed or fail."""

import logging
import traceback

import pytest

from foreshard.errors import StorageError
from foreshard.storage import ObjectStore

SECRET = "recognisable-secret"
TOKEN = "recognisable-token"


@pytest.fixture
def everything_logged(caplog):
    """Log all that any library has to say, those included that have a level of their own."""
    named = [logging.getLogger(name) for name in [*logging.root.manager.loggerDict]]
    before = [(logger, logger.level) for logger in named]
    for logger in named:
        logger.setLevel(logging.DEBUG)
    with caplog.at_level(logging.DEBUG):
        yield caplog
    for logger, level in before:
        logger.setLevel(level)


def _work(store):
    """Use every kind of request and every client; what fails is returned as it would be shown."""
    filesystem, base = store.filesystem()
    shown = []
    for ask in (
        lambda: store.put("a", b"x"),
        lambda: store.create("b", b"x"),
        lambda: store.create("b", b"y"),
        lambda: store.put_content("c", b"x"),
        lambda: store.swap("a", b"y", store.get_tagged("a")[1]),
        lambda: store.swap("a", b"z", "stale"),
        lambda: store.get("gone"),
        lambda: store.get_range("a", 0, 100),
        lambda: list(store.list("")),
        lambda: store.uploads(""),
        lambda: store.abort_uploads(store.uploads("")),
        lambda: store.delete(["c"]),
        lambda: filesystem.open_input_file(f"{base}/a").read(),
        lambda: filesystem.open_input_file(f"{base}/gone").read(),
    ):
        try:
            ask()
        except (StorageError, OSError) as error:
            shown.append("".join(traceback.format_exception(error)))
    return [*shown, repr(store), str(vars(store)), repr(store._store), store.url, str(store.endpoint)]


def test_a_secret_that_works_is_shown_and_stored_nowhere(s3_server, everything_logged, capfd):
    bucket = s3_server.create_bucket()
    store = ObjectStore.open(f"s3://{bucket}/p", endpoint=s3_server.endpoint)
    with s3_server.client() as client:
        client.create_multipart_upload(Bucket=bucket, Key="p/unfinished")
    shown = [*_work(store), everything_logged.text, *capfd.readouterr()]
    assert len(everything_logged.records) > 20, "libraries were listened to"
    with s3_server.client() as client:
        for entry in client.list_objects_v2(Bucket=bucket)["Contents"]:
            found = client.get_object(Bucket=bucket, Key=entry["Key"])
            shown += [entry["Key"], found["Body"].read().decode(), str(found)]
    assert [text for text in shown if s3_server.secret_key in text] == []


def test_credentials_that_fail_are_shown_nowhere(s3_server, everything_logged, capfd, monkeypatch):
    bucket = s3_server.create_bucket()
    store = ObjectStore.open(f"s3://{bucket}/p", endpoint=s3_server.endpoint)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    refused = ObjectStore(store.url, store._s3.connect(store.timeouts), store._s3)
    shown = _work(refused)
    assert len([text for text in shown if "Traceback" in text]) > 10, "requests were refused"
    with pytest.raises(StorageError) as caught:
        ObjectStore.open(f"s3://{bucket}/p", endpoint=s3_server.endpoint)
    shown += ["".join(traceback.format_exception(caught.value)), everything_logged.text, *capfd.readouterr()]
    for word in (SECRET, TOKEN):
        assert [text[max(0, text.find(word) - 300) : text.find(word) + 300] for text in shown if word in text] == []
