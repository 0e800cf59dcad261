"""Reads byte ranges straight into memory that is there already: local files, and S3 over plain HTTP.

obstore gathers an answer in a buffer of its own, which is then copied to where it shall lie: half of what a read costs
the processor. Here the kernel copies once, while the interpreter is free. Only reads that go smoothly come from here:
whatever else happens is for obstore, with its repeats and its words for errors. TLS is left to obstore, as Python would
decrypt 16 KiB a call.
"""

import logging
import os
import socket
import struct
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from threading import Lock
from typing import Final, Protocol
from urllib.parse import urlsplit

from obstore.exceptions import BaseError

from foreshard.local import open_plain
from foreshard.retries import Timeouts

_log: Final = logging.getLogger(__name__)

URL_LIFE: Final = 3600.0
"""Seconds for which a URL is signed."""

_MOST_FAILURES: Final = 4  # in a row, before a pause
_PAUSE: Final = 30.0  # seconds in which obstore reads alone
_HEADER_BYTES: Final = 8192  # of an answer's body may have come with its header, at most


class DirectReads(Protocol):
    """Reads ranges into memory. May be called by several threads."""

    def read(self, key: str, start: int, targets: Sequence[memoryview]) -> bool:
        """Read an object's bytes from `start` on into targets, one after the other.

        Returns:
            Whether all of them are filled; otherwise what they hold is nothing.
        """
        ...

    def close(self) -> None:
        """Close what is open; it may be used again."""
        ...


class FileReads:
    """Reads files of a folder, each range by one system call.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, key: str, start: int, targets: Sequence[memoryview]) -> bool:
        """See `DirectReads`."""
        with open_plain(self._root, key) as handle:
            return handle is not None and os.preadv(handle, targets, start) == sum(map(len, targets))

    def close(self) -> None:
        """See `DirectReads`."""


class HttpReads:
    """Reads S3 objects over plain HTTP by signed URLs, on connections that are kept.

    Args:
        sign: returns a URL of a key that is good for `URL_LIFE` seconds.
        timeouts: deadlines of a request.
    """

    def __init__(self, sign: Callable[[str], str], timeouts: Timeouts) -> None:
        self._sign, self._timeouts = sign, timeouts
        self._lock = Lock()
        self._urls: dict[str, tuple[str, float]] = {}
        self._idle: list[HTTPConnection] = []
        self._failures, self._paused_until = 0, 0.0

    def read(self, key: str, start: int, targets: Sequence[memoryview]) -> bool:
        """See `DirectReads`."""
        if time.monotonic() < self._paused_until:
            return False
        try:
            problem = self._get(key, start, targets)
        except (OSError, HTTPException, BaseError) as error:
            problem = repr(error)
        if problem is None:
            self._failures = 0
            return True
        with self._lock:
            self._urls.pop(key, None)
            self._failures += 1
            if self._failures >= _MOST_FAILURES:
                self._failures, self._paused_until = 0, time.monotonic() + _PAUSE
                _log.info("%r cannot be read directly (%s): obstore reads for %d s", key, problem, _PAUSE)
        return False

    def close(self) -> None:
        """See `DirectReads`."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def __del__(self) -> None:
        # Of a store's reader that was forgotten. Without the lock, which a forked child may have found held.
        for connection in self._idle:
            connection.close()

    def _get(self, key: str, start: int, targets: Sequence[memoryview]) -> str | None:
        """Return what is wrong, or None."""
        url = urlsplit(self._url(key))
        total = sum(map(len, targets))
        path, headers = f"{url.path}?{url.query}", {"Range": f"bytes={start}-{start + total - 1}"}
        connection = self._take(url.netloc)
        kept = False
        try:
            try:
                answer = _ask(connection, path, headers)
            except (ConnectionError, HTTPException):
                # A kept connection may have been closed by the server meanwhile.
                connection.close()
                self._open(connection)
                answer = _ask(connection, path, headers)
            if answer.status != HTTPStatus.PARTIAL_CONTENT or answer.length != total:
                return f"status {answer.status}, {answer.length} bytes instead of {total}"
            if answer.will_close:  # the connection is the answer's by now
                with answer:
                    return None if _read_all(answer, targets) else "the answer was cut short"
            kept = self._receive(connection.sock, answer, targets)
            answer.close()
            return None if kept else "the answer was cut short"
        finally:
            self._give(connection) if kept else connection.close()

    def _receive(self, sock: socket.socket, answer: HTTPResponse, targets: Sequence[memoryview]) -> bool:
        """Fill the targets with an answer's body: what has come with its header, and then from the socket itself."""
        until = time.monotonic() + self._timeouts.request
        ahead = memoryview(answer.fp.read1(_HEADER_BYTES))
        # Blocking, with the deadline in the kernel: then one call waits for all bytes, not one for each packet.
        sock.settimeout(None)
        for target in targets:
            at = min(len(ahead), len(target))
            target[:at], ahead = ahead[:at], ahead[at:]
            while at < len(target):
                got = sock.recv_into(target[at:], 0, socket.MSG_WAITALL)
                at += got
                if not got or time.monotonic() > until:
                    return False
        sock.settimeout(self._timeouts.read)
        return not len(ahead)

    def _url(self, key: str) -> str:
        with self._lock:
            url, until = self._urls.get(key, ("", 0.0))
        if time.monotonic() > until:
            url, until = self._sign(key), time.monotonic() + URL_LIFE / 2
            with self._lock:
                self._urls[key] = url, until
        return url

    def _take(self, host: str) -> HTTPConnection:
        with self._lock:
            for at, connection in enumerate(self._idle):
                if host in {connection.host, f"{connection.host}:{connection.port}"}:
                    return self._idle.pop(at)
        connection = HTTPConnection(host, timeout=self._timeouts.connect)
        self._open(connection)
        return connection

    def _open(self, connection: HTTPConnection) -> None:
        connection.connect()
        sock = connection.sock
        seconds, fraction = divmod(self._timeouts.read, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", int(seconds), int(fraction * 1e6)))
        sock.settimeout(self._timeouts.read)

    def _give(self, connection: HTTPConnection) -> None:
        with self._lock:
            self._idle.append(connection)


def _ask(connection: HTTPConnection, path: str, headers: dict[str, str]) -> HTTPResponse:
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


def _read_all(answer: HTTPResponse, targets: Sequence[memoryview]) -> bool:
    """Fill the targets with an answer's body, in pieces as they come."""
    for target in targets:
        at = 0
        while at < len(target):
            got = answer.readinto(target[at:])
            if not got:
                return False
            at += got
    return True
