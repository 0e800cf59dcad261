"""Opens log files, compressed or not, and cuts them into blocks of whole lines without ever holding an endless line."""

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from io import IOBase
from pathlib import Path
from typing import IO, Final, cast

import numpy as np
import pyarrow as pa

from foreshard.access.importers.report import Quarantine
from foreshard.errors import LogError

BLOCK_BYTES: Final = 4 << 20
"""Bytes that are read and parsed at once."""

LINE_BYTES: Final = 1 << 20
"""Longest line that may be a record; access records have a few hundred bytes."""

TOO_LONG: Final = f"line longer than {LINE_BYTES} bytes"
CUT_SHORT: Final = "compressed data cut short or damaged; what follows is lost"

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


def open_log(path: Path, stack: ExitStack) -> IO[bytes]:
    """Open a file for reading, decompressing gzip and zstd by their first bytes.

    Args:
        path: the file.
        stack: closes it.

    Raises:
        LogError: it is missing or may not be read.
    """
    try:
        raw = stack.enter_context(path.open("rb"))
    except OSError as error:
        raise LogError(f"log {str(path)!r} cannot be read ({error.strerror}); give an existing log file") from error
    return decompress(raw, stack)


def decompress(raw: IO[bytes], stack: ExitStack) -> IO[bytes]:
    """Return a stream's content, decompressed if it is gzip or zstd."""
    start = raw.read(4)
    raw.seek(0)
    if start.startswith(_GZIP):
        return cast("IO[bytes]", stack.enter_context(gzip.open(raw)))
    if start == _ZSTD:
        return cast("IO[bytes]", stack.enter_context(pa.CompressedInputStream(cast("IOBase", raw), "zstd")))
    return raw


def read_blocks(read: Callable[[int], bytes], quarantine: Quarantine, file: str) -> Iterator[bytes]:
    """Yield a stream's blocks; damaged compression ends it and is reported."""
    at = 0
    while True:
        try:
            block = read(BLOCK_BYTES)
        except (EOFError, zlib.error, pa.ArrowException, OSError) as error:
            quarantine.drop(CUT_SHORT, file, f"byte {at} of the content", str(error))
            return
        if not block:
            return
        at += len(block)
        yield block


def line_blocks(stream: IO[bytes], quarantine: Quarantine, file: str) -> Iterator[tuple[int, bytes]]:
    """Yield (number of the first line, from 1; whole lines, each with its newline).

    A line longer than `LINE_BYTES` is reported and left out; no more than that of it is ever held. Its place is taken
    by an empty line, so that the numbers of the lines behind it are right.
    """
    line, carry, skipping = 1, b"", False
    for read in read_blocks(stream.read, quarantine, file):
        block = read
        if skipping:
            end = block.find(b"\n")
            if end < 0:
                continue
            block, skipping = block[end:], False
        cut = block.rfind(b"\n") + 1
        if cut:
            whole = _without_long(carry + block[:cut], line, quarantine, file)
            yield line, whole
            line += whole.count(b"\n")
            carry = block[cut:]
        else:
            carry += block
        if len(carry) > LINE_BYTES:
            quarantine.drop(TOO_LONG, file, f"line {line}", carry)
            carry, skipping = b"", True
    if carry:
        yield line, carry + b"\n"


def _without_long(block: bytes, line: int, quarantine: Quarantine, file: str) -> bytes:
    """Empty the lines that are too long, so that it does not matter where a block ends."""
    if len(block) <= LINE_BYTES:
        return block
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
    long = np.flatnonzero(np.diff(ends, prepend=-1) - 1 > LINE_BYTES)
    if not len(long):
        return block
    lines = block.split(b"\n")
    for number in long.tolist():
        quarantine.drop(TOO_LONG, file, f"line {line + number}", lines[number])
        lines[number] = b""
    return b"\n".join(lines)
