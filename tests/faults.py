"""An HTTP/1.1 proxy between a client and a real S3 server that does what bad networks and servers do, at given rates.

It passes on everything unchanged, `Host` included (S3 signatures cover it), and decides for each request from a seeded
generator whether a fault strikes it.
"""

import random
import select
import socket
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, Self
from urllib.parse import urlsplit

Fault = Literal["reset", "error", "stall", "truncate", "flip_response", "flip_request", "lost_response"]
FAULTS: tuple[Fault, ...] = (
    "reset",  # the connection is reset in the middle of the request or of the answer
    "error",  # 503 SlowDown; the request is not carried out
    "stall",  # silence, before the request is carried out or in the middle of the answer; then the connection closes
    "truncate",  # the connection closes in the middle of an answer whose whole length was announced
    "flip_response",  # one bit of the answer's body is wrong
    "flip_request",  # one bit of the request's body is wrong
    "lost_response",  # the request is carried out, and the connection reset instead of an answer
)

_PIECE = 1 << 16
_SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>SlowDown</Code><Message>Please reduce your request rate.'
    b"</Message></Error>"
)


class _Gone(Exception):  # noqa: N818 - no error: how a connection ends
    """One of the two sides closed, or the proxy stops."""


@dataclass
class _Head:
    """The first lines of a request or of an answer."""

    raw: bytes
    first: str = field(init=False)
    headers: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        lines = self.raw.decode("latin-1").split("\r\n")
        self.first = lines[0]
        pairs = (line.partition(":") for line in lines[1:] if line)
        self.headers = {name.strip().lower(): value.strip() for name, _, value in pairs}

    @property
    def length(self) -> int | None:
        """Bytes of the body; None where it comes in chunks or until the connection closes."""
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            return None
        length = self.headers.get("content-length")
        return None if length is None else int(length)

    @property
    def chunked(self) -> bool:
        return "chunked" in self.headers.get("transfer-encoding", "").lower()

    @property
    def closes(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"


class _Wire:
    """One side of a connection, read through a buffer."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def _more(self) -> None:
        try:
            piece = self.sock.recv(_PIECE)
        except OSError as error:
            raise _Gone from error
        if not piece:
            raise _Gone
        self._buffer += piece

    def head(self) -> _Head:
        """Read up to the empty line that ends a head."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            self._more()
        raw, self._buffer = self._buffer[: end + 4], self._buffer[end + 4 :]
        return _Head(raw)

    def line(self) -> bytes:
        """Read a line with its end."""
        while (end := self._buffer.find(b"\r\n")) < 0:
            self._more()
        line, self._buffer = self._buffer[: end + 2], self._buffer[end + 2 :]
        return line

    def some(self, limit: int) -> bytes:
        """Read some bytes, `limit` at most."""
        if not self._buffer:
            self._more()
        piece, self._buffer = self._buffer[:limit], self._buffer[limit:]
        return piece

    def send(self, raw: bytes) -> None:
        try:
            self.sock.sendall(raw)
        except OSError as error:
            raise _Gone from error

    def idle(self) -> bool:
        """Whether the other side has neither closed nor sent anything unasked."""
        return not self._buffer and not select.select([self.sock], [], [], 0)[0]

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.close()

    def close(self) -> None:
        self.sock.close()


class FaultProxy:
    """Serves on a loopback port what an S3 server answers, with faults; a context manager.

    Args:
        endpoint: the server's URL, like http://127.0.0.1:9000.
        seed: of the generator that decides; the n-th request of a client with one connection meets the same fault in
            every run.
        rates: the probability of each fault per request; a fault that cannot strike a request (a flipped body where
            there is none) spares it.
        stall: seconds of silence of the fault `stall`; longer than the client's read timeout.

    Attributes:
        endpoint: the proxy's URL.
        rates: as given; may be replaced while it runs.
        counts: how often each fault was injected.
        requests: how many requests were received.
        lines: the first line of each.
    """

    def __init__(self, endpoint: str, seed: int, rates: dict[Fault, float], *, stall: float = 15.0) -> None:
        if unknown := set(rates) - set(FAULTS):
            raise ValueError(f"{sorted(unknown)} are no faults; there are {FAULTS}")
        if sum(rates.values()) > 1:
            raise ValueError(f"the rates {rates} add up to more than 1")
        server = urlsplit(endpoint)
        self._server = (str(server.hostname), int(server.port or 80))
        self.rates = dict(rates)
        self._random = random.Random(seed)  # noqa: S311
        self._stall = stall
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._connections: dict[threading.Thread, list[_Wire]] = {}
        self.counts: Counter[Fault] = Counter()
        self.requests = 0
        self.lines: list[str] = []
        self.endpoint = ""

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._woken, self._waker = socket.socketpair()
        self._acceptor = threading.Thread(target=self._accept, name="fault-proxy", daemon=True)
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._waker.close()  # ends every stall
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(10)
        self._listener.close()
        with self._lock:
            running = list(self._connections.items())
        for _, wires in running:
            for wire in wires:
                with suppress(OSError):
                    wire.sock.shutdown(socket.SHUT_RDWR)
        for thread, _ in running:
            thread.join(10)
        self._woken.close()
        if alive := [thread.name for thread, _ in running if thread.is_alive()]:
            raise RuntimeError(f"the proxy's threads {alive} do not end")

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            wires = [_Wire(sock)]
            thread = threading.Thread(target=self._serve, args=(wires,), name="fault-proxy-connection", daemon=True)
            with self._lock:
                self._connections[thread] = wires
            thread.start()

    def _serve(self, wires: list[_Wire]) -> None:
        try:
            _Connection(self, wires).run()
        except _Gone:
            pass
        finally:
            with self._lock:
                self._connections.pop(threading.current_thread(), None)
                for wire in wires:
                    wire.close()

    def connect(self) -> _Wire:
        """Connect to the server."""
        try:
            return _Wire(socket.create_connection(self._server, timeout=None))
        except OSError as error:
            raise _Gone from error

    def draw(self, line: str) -> tuple[Fault | None, random.Random]:
        """Decide about the next request, of this first line: its fault, and a generator for the details."""
        with self._lock:
            self.requests += 1
            self.lines.append(line)
            at, details = self._random.random(), random.Random(self._random.getrandbits(64))  # noqa: S311
        for fault, rate in self.rates.items():
            if at < rate:
                return fault, details
            at -= rate
        return None, details

    def count(self, fault: Fault) -> None:
        with self._lock:
            self.counts[fault] += 1

    def wait(self, client: _Wire) -> None:
        """Be silent until the stall is over, the client hangs up or the proxy stops."""
        select.select([client.sock, self._woken], [], [], self._stall)


class _Connection:
    """A client's connection and the one to the server that goes with it."""

    def __init__(self, proxy: FaultProxy, wires: list[_Wire]) -> None:
        self._proxy = proxy
        self._wires = wires
        self._client = wires[0]

    @property
    def _server(self) -> _Wire:
        return self._wires[1]

    def run(self) -> None:
        """Serve one request after the other until a side closes or a fault ends the connection."""
        while True:
            request = self._client.head()
            fault, details = self._proxy.draw(request.first)
            if len(self._wires) > 1 and not self._server.idle():
                self._wires.pop().close()  # the server closed a connection that was kept alive
            if len(self._wires) == 1:
                self._wires.append(self._proxy.connect())
            if "100-continue" in request.headers.get("expect", "").lower():
                self._client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            if fault == "error":
                self._refuse(request)
                continue
            self._request(request, fault, details)
            if not self._answer(request, fault, details):
                return

    def _refuse(self, request: _Head) -> None:
        self._proxy.count("error")
        self._copy_body(self._client, None, request)
        head = f"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: {len(_SLOW_DOWN)}\r\n\r\n"
        self._client.send(head.encode() + (b"" if request.first.startswith("HEAD ") else _SLOW_DOWN))

    def _request(self, request: _Head, fault: Fault | None, details: random.Random) -> None:
        length = request.length or 0
        early = details.random() < 0.5
        if fault == "reset" and early:
            self._server.send(request.raw)
            self._copy_body(self._client, self._server, request, stop=length // 2)
            self._end("reset")
        if fault == "stall" and early:
            self._proxy.count("stall")
            self._proxy.wait(self._client)
            raise _Gone
        flip = None
        if fault == "flip_request" and length:
            self._proxy.count("flip_request")
            flip = details.randrange(8 * length)
        self._server.send(request.raw)
        self._copy_body(self._client, self._server, request, flip=flip)

    def _answer(self, request: _Head, fault: Fault | None, details: random.Random) -> bool:
        """Pass on the answer; False if the connection is not kept alive."""
        answer = self._server.head()
        while answer.first.split(" ")[1].startswith("1"):
            answer = self._server.head()
        bodiless = request.first.startswith("HEAD ") or answer.first.split(" ")[1] in {"204", "304"}
        length = 0 if bodiless else answer.length
        if fault == "lost_response":
            if not bodiless:
                self._copy_body(self._server, None, answer)
            self._end("lost_response")
        if fault in {"reset", "stall", "truncate"} and (length or fault != "truncate"):
            self._break_off(answer, fault, length or 0)
        flip = None
        if fault == "flip_response" and length:
            self._proxy.count("flip_response")
            flip = details.randrange(8 * length)
        self._client.send(answer.raw)
        if not bodiless:
            self._copy_body(self._server, self._client, answer, flip=flip)
        kept = length is not None or answer.chunked
        return kept and not answer.closes and not request.closes

    def _break_off(self, answer: _Head, fault: Fault, length: int) -> None:
        if length:
            self._client.send(answer.raw)
            self._copy_body(self._server, self._client, answer, stop=length // 2)
        if fault == "reset":
            self._end("reset")
        self._proxy.count(fault)
        if fault == "stall":
            self._proxy.wait(self._client)
        raise _Gone

    def _end(self, fault: Fault) -> None:
        """Reset the connection to the client; what the server was sent so far is cut off the same way."""
        self._proxy.count(fault)
        for wire in reversed(self._wires):
            wire.reset()
        raise _Gone

    def _copy_body(
        self, source: _Wire, target: _Wire | None, head: _Head, *, stop: int | None = None, flip: int | None = None
    ) -> None:
        """Pass a body on, up to byte `stop` and with bit `flip` turned; to nobody where the target is None."""
        if head.chunked:
            self._copy_chunks(source, target)
            return
        if head.length is None and head.first.startswith("HTTP/"):
            while True:  # until the server closes, which ends the connection by _Gone
                self._pass(source.some(_PIECE), target)
        at, end = 0, (head.length or 0) if stop is None else stop
        while at < end:
            piece = source.some(min(_PIECE, end - at))
            if flip is not None and at <= flip // 8 < at + len(piece):
                raw = bytearray(piece)
                raw[flip // 8 - at] ^= 1 << flip % 8
                piece = bytes(raw)
            at += len(piece)
            self._pass(piece, target)

    def _copy_chunks(self, source: _Wire, target: _Wire | None) -> None:
        while True:
            line = source.line()
            self._pass(line, target)
            left = int(line.split(b";")[0], 16) + 2
            if left == 2:  # trailers may follow, up to an empty line
                while (line := source.line()) != b"\r\n":
                    self._pass(line, target)
                self._pass(b"\r\n", target)
                return
            while left:
                piece = source.some(min(_PIECE, left))
                left -= len(piece)
                self._pass(piece, target)

    @staticmethod
    def _pass(piece: bytes, target: _Wire | None) -> None:
        if target is not None:
            target.send(piece)
