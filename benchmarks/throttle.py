"""A slow link: an HTTP/1.1 proxy before an S3 server, with latency for every request and a bandwidth for all together.

It runs in a process of its own (`throttled`), so that it takes no time from the loader's interpreter. Requests are
passed on unchanged, `Host` included, which S3 signatures cover.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import ROOT

_PIECE: Final = 1 << 16
_FOLLOWS_S: Final = 0.005
_OVERSLEPT_S: Final = 0.100
_HEAD: Final = b"\r\n\r\n"

Sink = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True)
class Speed:
    """How slow a link is.

    Attributes:
        latency_s: seconds that every request waits before it is passed on.
        rate: bytes a second of all answers' bodies together; requests are not held up.
    """

    latency_s: float
    rate: float

    def least_time(self, nbytes: int, steps: int, step_s: float) -> float:
        """Return the seconds below which no epoch can stay: all bytes once and one latency, or computing.

        Args:
            nbytes: of the chunks.
            steps: batches.
            step_s: seconds of computing on each.
        """
        return max(nbytes / self.rate + self.latency_s, steps * step_s)

    def least_waits(
        self, nbytes: NDArray[np.int64], first_steps: NDArray[np.int64], steps: int, step_s: float
    ) -> NDArray[np.float64]:
        """Return how long a loop waits for each batch at least, where chunks come in the order of their first use.

        No batch is there before all of its chunks are; memory is no limit. The epoch takes computing and these waits.

        Args:
            nbytes: size of every chunk, shape (C,).
            first_steps: the batch that uses each first, shape (C,).
            steps: batches.
            step_s: seconds of computing on each.

        Returns:
            Seconds, shape (s,).
        """
        there = self.latency_s + np.cumsum(np.bincount(first_steps, nbytes, steps)) / self.rate
        # Waits up to a batch add up to what the latest of the batches so far was behind computing alone.
        behind = np.maximum.accumulate(there - step_s * np.arange(steps))
        return np.diff(behind, prepend=0.0)


class Pacer:
    """Shares a bandwidth: tells when bytes are through, if all that were asked about before go first.

    A sender that has more to send and oversleeps, as on a busy machine, does not lose the time: a real one has a buffer
    that is sent meanwhile. Time in which nobody had anything to send is lost.

    Args:
        rate: bytes a second.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free = self._passed = float("-inf")

    def delay(self, nbytes: int, now: float) -> float:
        """Return the seconds from `now` until so many bytes are through, behind all others."""
        backlog = now - self._passed < _FOLLOWS_S and now - self._free < _OVERSLEPT_S
        self._free = (self._free if backlog else max(self._free, now)) + nbytes / self._rate
        return max(self._free - now, 0.0)

    def passed(self, now: float) -> None:
        """Say that bytes went on after their delay, at `now`: what is asked about right behind was waiting for it."""
        self._passed = now


class Head:
    """The first lines of a request or of an answer.

    Args:
        raw: up to and with the empty line.
    """

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.first, *lines = raw.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines if line)
        self._headers = {name.strip().lower(): value.strip().lower() for name, _, value in pairs}

    @property
    def chunked(self) -> bool:
        """Whether the body comes in chunks."""
        return "chunked" in self._headers.get("transfer-encoding", "")

    @property
    def length(self) -> int | None:
        """Bytes of the body as announced; None if they are not."""
        length = self._headers.get("content-length")
        return None if self.chunked or length is None else int(length)

    @property
    def closes(self) -> bool:
        """Whether the connection ends with this."""
        return self._headers.get("connection") == "close"


class Throttle:
    """The proxy.

    Args:
        endpoint: the server's URL.
        speed: how slow it is.

    Attributes:
        requests: received so far.
        nbytes: bytes of answers' bodies passed on so far.
    """

    def __init__(self, endpoint: str, speed: Speed) -> None:
        server = urlsplit(endpoint)
        self._server = (str(server.hostname), int(server.port or 80))
        self._latency, self._pacer = speed.latency_s, Pacer(speed.rate)
        self.requests = self.nbytes = 0

    async def serve(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        """Serve a connection until either side closes it."""
        server, forth = await asyncio.open_connection(*self._server)
        try:
            # Cancelled when the process ends.
            with suppress(asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
                while await self._exchange(client, back, server, forth):
                    pass
        finally:
            back.close()
            forth.close()

    async def _exchange(
        self,
        client: asyncio.StreamReader,
        back: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        forth: asyncio.StreamWriter,
    ) -> bool:
        """Pass on a request and its answer; return whether another may follow."""
        request = Head(await client.readuntil(_HEAD))
        self.requests += 1
        await asyncio.sleep(self._latency)

        async def send(piece: bytes) -> None:
            forth.write(piece)
            await forth.drain()

        async def answer_with(piece: bytes) -> None:
            await asyncio.sleep(self._pacer.delay(len(piece), time.perf_counter()))
            self._pacer.passed(time.perf_counter())
            self.nbytes += len(piece)
            back.write(piece)
            await back.drain()

        await send(request.raw)
        await _pass_body(client, request, send, length=request.length or 0)
        answer = Head(await server.readuntil(_HEAD))
        back.write(answer.raw)
        status = answer.first.split(" ")[1]
        bodiless = request.first.startswith("HEAD ") or status in {"204", "304"}
        await _pass_body(server, answer, answer_with, length=0 if bodiless else answer.length)
        await back.drain()
        return not (request.closes or answer.closes)


async def _pass_body(source: asyncio.StreamReader, head: Head, sink: Sink, *, length: int | None) -> None:
    if length == 0 and not head.chunked:
        return
    if head.chunked:
        while (size := int((line := await source.readuntil(b"\r\n")).split(b";")[0], 16)) > 0:
            await sink(line + await source.readexactly(size + 2))
        await sink(line + await source.readuntil(b"\r\n"))
        return
    left = sys.maxsize if length is None else length
    while left and (piece := await source.read(min(_PIECE, left))):
        await sink(piece)
        left -= len(piece)
    if left:
        raise ConnectionResetError("the body ended early, or with the connection")


# -- the process ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """What a throttle passed on: requests, and bytes of answers' bodies."""

    requests: int
    nbytes: int


class Link:
    """A throttle that runs in a process of its own.

    Attributes:
        endpoint: its URL.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.endpoint = str(self._ask(None))

    def counts(self) -> Counts:
        """Return what it passed on so far."""
        return Counts(*self._ask("counts\n"))

    def _ask(self, question: str | None) -> "str | list[int]":
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if question:
            self._process.stdin.write(question)
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the throttle's process ended with code {self._process.wait(10)}; see its stderr")
        return json.loads(answer)


@contextmanager
def throttled(endpoint: str, speed: Speed) -> Generator[Link]:
    """Run a throttle before a server until the block ends."""
    command = [sys.executable, "-m", "benchmarks.throttle", endpoint, str(speed.latency_s), str(speed.rate)]
    with subprocess.Popen(  # noqa: S603 - our own module, no shell
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Link(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()  # ends it, as would the end of this process


async def _main(endpoint: str, latency: str, rate: str) -> None:
    with suppress(PermissionError):  # a link does not wait for a processor
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    throttle = Throttle(endpoint, Speed(float(latency), float(rate)))
    listener = await asyncio.start_server(throttle.serve, "127.0.0.1", 0, limit=2 * _PIECE)
    print(json.dumps(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"), flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps([throttle.requests, throttle.nbytes]), flush=True)
    listener.close()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
