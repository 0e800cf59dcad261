"""The fault proxy of the tests itself: transparent without faults, each fault as described, and gone afterwards."""

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import numpy as np
import pytest
from faults import FAULTS, FaultProxy

from foreshard.storage import ObjectStore

BODY = b"0123456789abcdef" * 4096


class _Echo(BaseHTTPRequestHandler):
    """Answers a GET with BODY, in chunks below /chunks, and keeps what is put."""

    protocol_version = "HTTP/1.1"
    received: list[tuple[str, bytes]]

    def do_GET(self):
        self.send_response(200)
        if self.path == "/chunks":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"a\r\n0123456789\r\n3;x=y\r\nabc\r\n0\r\nTrailer: t\r\n\r\n")
        else:
            self.send_header("Content-Length", str(len(BODY)))
            self.end_headers()
            self.wfile.write(BODY)

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.received.append((self.headers["Host"], body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class _Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        pass  # connections that break off are what these tests are about


@pytest.fixture
def upstream():
    """A plain HTTP server: its URL and what it received."""
    received = []
    handler = type("Handler", (_Echo,), {"received": received})
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", received
        server.shutdown()
        thread.join(10)


def _ask(proxy, method="GET", path="/", body=None):
    connection = http.client.HTTPConnection(urlsplit(proxy.endpoint).netloc, timeout=5)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _bits_apart(a, b):
    return int(np.unpackbits(np.frombuffer(a, np.uint8) ^ np.frombuffer(b, np.uint8)).sum())


def test_without_faults_everything_passes_unchanged_on_one_connection(upstream):
    url, received = upstream
    with FaultProxy(url, 0, {}) as proxy:
        connection = http.client.HTTPConnection(urlsplit(proxy.endpoint).netloc, timeout=5)
        for path, expected in (("/", BODY), ("/chunks", b"0123456789abc"), ("/", BODY)):
            connection.request("GET", path)
            assert connection.getresponse().read() == expected
        connection.request("PUT", "/", BODY, {"Host": "as.signed:1"})
        assert connection.getresponse().read() == b""
        connection.close()
        assert proxy.requests == 4
        assert not proxy.counts
    assert received == [("as.signed:1", BODY)]


@pytest.mark.parametrize("seed", range(2))
def test_a_reset_or_a_lost_response_breaks_the_connection(upstream, seed):
    url, received = upstream
    for fault in ("reset", "lost_response"):
        with FaultProxy(url, seed, {fault: 1.0}) as proxy:
            for method, body in (("GET", None), ("PUT", BODY)):
                with pytest.raises((ConnectionError, http.client.HTTPException)):
                    _ask(proxy, method, body=body)
            assert proxy.counts == {fault: 2}
    assert received[-1][1] == BODY, "a lost response is one to a request that was carried out"


def test_an_error_is_a_503_without_effect_that_keeps_the_connection(upstream):
    url, received = upstream
    with FaultProxy(url, 0, {"error": 1.0}) as proxy:
        connection = http.client.HTTPConnection(urlsplit(proxy.endpoint).netloc, timeout=5)
        for _ in range(2):
            connection.request("PUT", "/", BODY)
            answer = connection.getresponse()
            assert (answer.status, b"SlowDown" in answer.read()) == (503, True)
        connection.close()
    assert received == []


def test_a_truncated_answer_announces_its_whole_length(upstream):
    with FaultProxy(upstream[0], 0, {"truncate": 1.0}) as proxy:
        with pytest.raises(http.client.IncompleteRead) as caught:
            _ask(proxy)
        assert _ask(proxy, "PUT", body=BODY) == (200, b"")
        assert proxy.counts == {"truncate": 1}
    assert 0 < len(caught.value.partial) < len(BODY)


def test_flips_turn_exactly_one_bit(upstream):
    url, received = upstream
    with FaultProxy(url, 0, {"flip_response": 1.0}) as proxy:
        assert _bits_apart(_ask(proxy)[1], BODY) == 1
        assert _ask(proxy, "PUT", body=BODY) == (200, b"")
    with FaultProxy(url, 0, {"flip_request": 1.0}) as proxy:
        assert _ask(proxy)[1] == BODY
        assert _ask(proxy, "PUT", body=BODY) == (200, b"")
        assert proxy.counts == {"flip_request": 1}
    assert [_bits_apart(body, BODY) for _, body in received] == [0, 1]


def test_a_stall_is_silence_and_then_the_end(upstream):
    with FaultProxy(upstream[0], 0, {"stall": 1.0}, stall=0.1) as proxy:
        for _ in range(4):
            with pytest.raises((ConnectionError, http.client.HTTPException)):
                _ask(proxy)
        assert proxy.counts == {"stall": 4}


def test_the_same_seed_strikes_the_same_requests(upstream):
    def struck(seed):
        with FaultProxy(upstream[0], seed, {"error": 0.3}) as proxy:
            return [_ask(proxy)[0] for _ in range(30)]

    assert struck(1) == struck(1)
    assert struck(1) != struck(2)


def test_it_leaves_no_thread_even_while_it_stalls(upstream):
    before = set(threading.enumerate())
    with FaultProxy(upstream[0], 0, {"stall": 1.0}, stall=300) as proxy:
        connection = http.client.HTTPConnection(urlsplit(proxy.endpoint).netloc, timeout=5)
        connection.request("GET", "/")
        while not proxy.counts:
            threading.Event().wait(0.005)
    assert [t.name for t in set(threading.enumerate()) - before if t.name.startswith("fault-proxy")] == []
    connection.close()


@pytest.mark.parametrize("rates", [{"typo": 0.1}, {"reset": 0.6, "stall": 0.5}])
def test_rates_that_mean_nothing_are_refused(rates):
    with pytest.raises(ValueError, match=r"are no faults|add up to more than 1"):
        FaultProxy("http://127.0.0.1:1", 0, rates)


def test_s3_servers_accept_signatures_and_uploads_through_it(s3_server):
    bucket = s3_server.create_bucket()
    with FaultProxy(s3_server.endpoint, 0, dict.fromkeys(FAULTS, 0.0)) as proxy:
        store = ObjectStore.open(f"s3://{bucket}", endpoint=proxy.endpoint)
        assert store.create("a b/ü", BODY)
        assert [(meta.key, meta.size) for meta in store.list("")] == [("a b/ü", len(BODY))]
        assert store.uploads("") == []
        filesystem, base = store.filesystem()
        with filesystem.open_output_stream(f"{base}/table") as sink:
            sink.write(BODY)
        assert store.get("table") == BODY
        store.delete(["a b/ü", "table"])
        assert list(store.list("")) == []
        assert proxy.requests >= 8
        assert not proxy.counts
