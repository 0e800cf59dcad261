"""Reads straight into memory: the same bytes as through obstore, or an honest no."""

import http.server
import threading

import numpy as np
import pytest
from faults import FaultProxy

from foreshard.direct import _MOST_FAILURES, HttpReads
from foreshard.retries import Timeouts
from foreshard.storage import ObjectStore

CONTENT = np.random.default_rng(0).integers(0, 256, 3_000_000, np.uint8).tobytes()


def rooms(*sizes):
    return [memoryview(bytearray(size)) for size in sizes]


def reads_of(store):
    """Put the object into a store and return what reads it there."""
    store.create("some/object.arrow", CONTENT)
    return store.direct()


def check(reads, key="some/object.arrow"):
    for start, sizes in [(0, (len(CONTENT),)), (7, (1,)), (1000, (5, 1, 70_000)), (2_000_000, (900_000, 100_000))]:
        targets = rooms(*sizes)
        assert reads.read(key, start, targets)
        assert b"".join(targets) == CONTENT[start : start + sum(sizes)]


def test_a_file_is_read_in_place_and_anything_unusual_is_refused(tmp_path):
    reads = reads_of(ObjectStore.open(tmp_path.as_uri()))
    check(reads)
    assert not reads.read("some/object.arrow", len(CONTENT) - 5, rooms(6))
    assert not reads.read("some/other.arrow", 0, rooms(6))
    assert not reads.read("some/../some/object.arrow", 0, rooms(6))


def test_memory_and_tls_are_left_to_obstore(monkeypatch):
    assert ObjectStore.open("memory://").direct() is None
    from foreshard.s3 import S3Address

    def plain(endpoint):
        return S3Address("bucket", "", endpoint, "us-east-1").plain_http

    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert plain("http://10.0.0.1:9000")
    assert not plain("https://10.0.0.1:9000")
    assert not plain(None)
    monkeypatch.setenv("http_proxy", "http://10.0.0.2:3128")
    assert not plain("http://10.0.0.1:9000")
    monkeypatch.setenv("no_proxy", "10.0.0.1")
    assert plain("http://10.0.0.1:9000")


@pytest.mark.s3
def test_every_store_reads_in_place_and_refuses_what_is_not_there(any_location):
    reads = reads_of(any_location.open())
    check(reads)
    assert not reads.read("some/other.arrow", 0, rooms(6))
    assert not reads.read("some/object.arrow", len(CONTENT) - 5, rooms(6))
    check(reads)
    reads.close()
    check(reads)
    reads.close()


@pytest.mark.s3
def test_a_connection_is_kept_and_used_again(seaweedfs_location):
    reads = reads_of(seaweedfs_location.open())
    used = set()
    for _ in range(3):
        check(reads)
        used |= {connection.sock.getsockname() for connection in reads._idle}
    assert len(used) == 1
    reads.close()


@pytest.mark.s3
def test_threads_read_at_the_same_time_each_on_a_connection_of_its_own(seaweedfs_location):
    reads = reads_of(seaweedfs_location.open())
    wrong = []

    def run(number):
        for i in range(20):
            start, target = 1000 * number + i, rooms(100_000)
            if not reads.read("some/object.arrow", start, target) or target[0] != CONTENT[start : start + 100_000]:
                wrong.append(number)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    reads.close()


@pytest.mark.s3
def test_whatever_a_link_does_a_read_brings_all_bytes_or_says_no(seaweedfs_location):
    store = seaweedfs_location.open()
    store.create("some/object.arrow", CONTENT)
    with FaultProxy(seaweedfs_location.endpoint, 3, {}) as proxy:
        through = ObjectStore.open(
            seaweedfs_location.url, endpoint=proxy.endpoint, timeouts=Timeouts(read=0.5, request=2, retries=0)
        )
        reads = through.direct()
        proxy.rates = {"error": 0.2, "truncate": 0.2, "reset": 0.2, "stall": 0.05}
        done = 0
        for start in range(60):
            target = rooms(200_000)
            reads._paused_until = 0.0
            if reads.read("some/object.arrow", start, target):
                assert target[0] == CONTENT[start : start + 200_000]
                done += 1
        proxy.rates = {}
        assert 5 < done < 60
        reads.close()


class Answer(http.server.BaseHTTPRequestHandler):
    """Answers as the test says, on one connection or with a new one for each request, announced or not."""

    protocol_version = "HTTP/1.1"
    status, body, stated, closing, announced = 206, b"", None, False, False
    asked = 0

    def do_GET(self):
        type(self).asked += 1
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body) if self.stated is None else self.stated))
        if self.announced:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(self.body)
        self.close_connection = self.closing or self.stated is not None

    def log_message(self, *_):
        pass


@pytest.fixture
def answering():
    class Mine(Answer):
        pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mine)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/it?signed=yes"
    yield Mine, HttpReads(lambda _key: url, Timeouts(read=0.3, request=1))
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_whole_object_in_place_of_the_range_is_refused(answering):
    handler, reads = answering
    handler.status, handler.body = 200, CONTENT[:1000]
    assert not reads.read("it", 0, rooms(1000))
    handler.status = 206
    assert reads.read("it", 0, rooms(1000))
    reads.close()


@pytest.mark.parametrize("announced", [False, True])
def test_an_answer_that_is_cut_short_is_refused(answering, announced):
    handler, reads = answering
    handler.body, handler.stated, handler.announced = CONTENT[:1000], 5000, announced
    assert not reads.read("it", 0, rooms(5000))
    reads.close()


@pytest.mark.parametrize("announced", [False, True])
def test_a_connection_that_the_server_closes_after_an_answer_is_opened_again(answering, announced):
    handler, reads = answering
    handler.body, handler.closing, handler.announced = CONTENT[:1000], True, announced
    for _ in range(2 * _MOST_FAILURES):
        target = rooms(400, 600)
        assert reads.read("it", 0, target)
        assert b"".join(target) == CONTENT[:1000]
    reads.close()


def test_after_some_failures_in_a_row_it_pauses_and_then_tries_again(answering):
    handler, reads = answering
    handler.status = 403
    for _ in range(_MOST_FAILURES + 5):
        assert not reads.read("it", 0, rooms(10))
    assert handler.asked == _MOST_FAILURES
    handler.status, handler.body = 206, CONTENT[:10]
    assert not reads.read("it", 0, rooms(10))
    reads._paused_until = 0.0
    assert reads.read("it", 0, rooms(10))
    reads.close()
