"""Reading for a process that was forked: by a fresh process, whose finished batches come through a socket.

A client of an object store does not survive a fork, nor can the child make one of its own: obstore's runtime is one per
process, and its threads stay with the parent, so that requests in the child wait for ever. (Measured: after the parent
had made one request to S3, every request in the child hung; with local folders, those within seconds of the parent's.)
The child may start programs, though. So it starts a Python that opens the loader and sends what the child asks for.
"""

import json
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import suppress
from multiprocessing.util import Finalize
from typing import Any, Final

import numpy as np
import pyarrow as pa

from foreshard.errors import ConfigError, DeadlineError, StorageError
from foreshard.loader.batch import Batch
from foreshard.loader.described import DirectReader, LoaderDescription, Turn
from foreshard.loader.sending import pickled

_BOOT: Final = """
import json, sys
sys.path[:] = json.loads(sys.argv[2])
from foreshard.loader.forked import serve
serve(int(sys.argv[1]))
"""
_FRAME: Final = struct.Struct("<cQQ")  # kind, bytes of the pickle, bytes of the batch
_DESCRIBE: Final = b"D"
_START: Final = b"S"
_NEXT: Final = b"N"
_BATCH: Final = b"B"
_END: Final = b"E"
_FAILURE: Final = b"F"
_OPENING_S: Final = 120.0
"""Seconds that starting Python, opening the layout and waiting for gc may take, beside the loader's own waits."""
_PARTING_S: Final = 10.0
"""Seconds that the process has to close its loader."""


class ForkedReader:
    """Reads through a process of its own; what `DirectReader` is elsewhere.

    The process ends with its socket, so it outlives this one, however that ends, by no more than a read.

    Args:
        description: the loader.

    Raises:
        ConfigError: other processes cannot open the loader's store, or its order cannot be sent to them.
    """

    def __init__(self, description: LoaderDescription) -> None:
        self._wait = 2 * description.options.timeout + _OPENING_S
        raw = pickled(description, order=description.order)
        mine, theirs = socket.socketpair()
        with theirs:
            handle = theirs.fileno()
            command = [sys.executable, "-c", _BOOT, str(handle), json.dumps(sys.path)]
            self._process = subprocess.Popen(command, pass_fds=[handle], stdin=subprocess.DEVNULL)  # noqa: S603
        self._socket = mine
        self._asked = False
        # DataLoader workers end without the interpreter's own clean-up; this is called there all the same.
        self._end = Finalize(self, _part, args=(self._process, mine), exitpriority=10)
        self._send(_DESCRIBE, raw)

    def read(self, turn: Turn) -> Generator[tuple[Batch, dict[str, Any]]]:
        """Yield what `DirectReader.read` yields there.

        Raises:
            ForeshardError: as it does.
            DeadlineError: nothing came in time.
            StorageError: the process died.
        """
        if self._asked:  # by a loop that was left
            self._receive()
        self._send(_START, pickled(turn, order=turn.order))
        self._ask()
        while True:
            kind, meta, body = self._receive()
            if kind == _FAILURE:
                raise _failure(meta)
            if kind == _END:
                return
            self._ask()  # it makes the next one ready meanwhile
            yield _unpack(meta, body)

    def close(self) -> None:
        """End the process."""
        self._end()

    def _ask(self) -> None:
        self._send(_NEXT, b"")
        self._asked = True

    def _send(self, kind: bytes, meta: bytes) -> None:
        self._socket.settimeout(self._wait)
        try:
            self._socket.sendall(_FRAME.pack(kind, len(meta), 0) + meta)
        except TimeoutError as error:
            raise self._overdue() from error
        except OSError as error:
            raise self._dead() from error

    def _receive(self) -> tuple[bytes, bytes, Any]:
        try:
            frame = receive(self._socket, time.monotonic() + self._wait)
        except TimeoutError as error:
            raise self._overdue() from error
        except OSError as error:
            raise self._dead() from error
        if frame is None:
            raise self._dead()
        self._asked = False
        return frame

    def _overdue(self) -> DeadlineError:
        return DeadlineError(
            f"process {self._process.pid}, which reads for the forked process {os.getpid()}, sent no batch within "
            f"{self._wait:.0f} s; check the object store or raise loader.timeout"
        )

    def _dead(self) -> StorageError:
        code: Any = None
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(_PARTING_S)
        return StorageError(
            f"process {self._process.pid}, which read for the forked process {os.getpid()}, ended with exit code "
            f"{code}; its output tells why (-9: killed, perhaps for lack of memory)"
        )


def _part(process: "subprocess.Popen[bytes]", mine: socket.socket) -> None:
    mine.close()
    try:
        process.wait(_PARTING_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def receive(source: socket.socket, deadline: float | None = None) -> tuple[bytes, bytes, Any] | None:
    """Return the kind, pickle and batch of the next frame; None if the other side is gone.

    Args:
        source: where it comes from.
        deadline: until when, by `time.monotonic`; None to wait as long as the other side lives.

    Raises:
        TimeoutError: it did not come in time.
    """
    head = _read(source, _FRAME.size, deadline)
    if head is None:
        return None
    kind, meta_size, body_size = _FRAME.unpack(head)
    meta, body = _read(source, meta_size, deadline), _read(source, body_size, deadline)
    return None if meta is None or body is None else (kind, bytes(meta), body)


def _read(source: socket.socket, size: int, deadline: float | None) -> Any | None:  # noqa: ANN401 - a numpy array
    buffer: Any = np.empty(size, np.uint8)
    view = memoryview(buffer)
    while view:
        if deadline is not None:
            source.settimeout(max(deadline - time.monotonic(), 0.001))
        count = source.recv_into(view)
        if not count:
            return None
        view = view[count:]
    return buffer


def _unpack(meta: bytes, body: Any) -> tuple[Batch, dict[str, Any]]:  # noqa: ANN401
    epoch, step, sample_ids, positions, run = pickle.loads(meta)  # noqa: S301 - from our own process
    rows = pa.ipc.open_stream(pa.py_buffer(body)).read_next_batch()
    return Batch(epoch, step, sample_ids, positions, rows), run


def _failure(meta: bytes) -> Exception:
    try:
        return pickle.loads(meta)  # noqa: S301
    except Exception as error:  # noqa: BLE001 - an exception's class may refuse to be made again in any way
        return StorageError(f"reading failed, and the error could not be sent: {error!r}")


# -- the process that reads ------------------------------------------------------------------------------


def serve(handle: int) -> None:
    """Open what the socket describes and answer until it is closed; called in a fresh process.

    Args:
        handle: file descriptor of the socket.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with the process it reads for
    with socket.socket(fileno=handle) as mine, suppress(BrokenPipeError, ConnectionResetError):
        source = _Source()
        try:
            while (frame := receive(mine)) is not None:
                kind, meta, _ = frame
                if kind == _NEXT:
                    _answer(mine, source)
                else:
                    source.tell(kind, meta)
        finally:
            source.close()


class _Source:
    """The batches of the latest start; what fails is raised when the next batch is asked for."""

    def __init__(self) -> None:
        self._reader: DirectReader | None = None
        self._batches: Generator[tuple[Batch, dict[str, Any]]] | None = None
        self._trouble: Exception | None = None

    def tell(self, kind: bytes, meta: bytes) -> None:
        try:
            told = self._load(meta)
            if kind == _DESCRIBE:
                self._reader = DirectReader(told)
            elif self._reader is not None:
                self.leave()
                self._batches = self._reader.read(told)
        except Exception as error:  # noqa: BLE001 - sent when a batch is asked for
            self._trouble = error

    def _load(self, meta: bytes) -> Any:  # noqa: ANN401
        try:
            return pickle.loads(meta)  # noqa: S301 - from the process that started this one
        except AttributeError as error:
            raise ConfigError(
                f"a forked worker's order cannot be opened by another process: {error}; define its class in a module "
                "of its own, or start workers by spawn"
            ) from error

    def next(self) -> tuple[Batch, dict[str, Any]] | None:
        if self._trouble is not None:
            raise self._trouble
        return None if self._batches is None else next(self._batches, None)

    def leave(self) -> None:
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def close(self) -> None:
        self.leave()
        if self._reader is not None:
            self._reader.close()


def _answer(mine: socket.socket, source: _Source) -> None:
    try:
        found = source.next()
    except Exception as error:  # noqa: BLE001 - raised where the batch was asked for
        _reply(mine, _FAILURE, _portable(error))
        return
    if found is None:
        _reply(mine, _END, b"")
        return
    batch, run = found
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.rows.schema) as writer:
        writer.write_batch(batch.rows)
    meta = pickle.dumps((batch.epoch, batch.step, batch.sample_ids, batch.positions, run))
    _reply(mine, _BATCH, meta, memoryview(sink.getvalue()))


def _portable(error: Exception) -> bytes:
    try:
        raw = pickle.dumps(error)
        pickle.loads(raw)  # noqa: S301 - just made
    except Exception:  # noqa: BLE001 - an exception's class may refuse in any way
        raw = pickle.dumps(StorageError(f"reading failed: {error!r}"))
    return raw


def _reply(mine: socket.socket, kind: bytes, meta: bytes, body: memoryview | None = None) -> None:
    mine.sendall(_FRAME.pack(kind, len(meta), 0 if body is None else body.nbytes) + meta)
    if body is not None:
        mine.sendall(body)
