"""Opens log files, compressed or not, and cuts them into blocks of whole lines without ever holding an endless line."""

import re
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from foreshard.access.importers.report import Quarantine
from foreshard.access.importers.unpack import Readable, unpack
from foreshard.errors import LogError

if TYPE_CHECKING:
    from io import BufferedReader

BLOCK_BYTES: Final = 4 << 20
"""Bytes that are read and parsed at once."""

LINE_BYTES: Final = 1 << 20
"""Longest line that may be a record; access records have a few hundred bytes."""

READ_ONLY: Final = "only gzip and zstd are read"

_MAGIC: Final = 16
_OTHERWISE: Final = re.compile(rb"BZh[1-9]1AY&SY|\xfd7zXZ\0")
"""How files of bzip2 and xz begin."""

TOO_LONG: Final = f"line longer than {LINE_BYTES} bytes"
CUT_SHORT: Final = "compressed data cut short or damaged; what follows is lost"


@dataclass(frozen=True)
class LogFile:
    """A file of a log.

    Attributes:
        path: where it is.
        name: what reports call it: its name, behind that of the folders it lies in below the log's.
    """

    path: Path
    name: str


def open_log(log: LogFile, stack: ExitStack, quarantine: Quarantine) -> Readable:
    """Open a file for reading, decompressing gzip and zstd.

    Args:
        log: the file.
        stack: closes it.
        quarantine: is told of damaged compression.

    Raises:
        LogError: it is missing, may not be read, or is compressed otherwise.
    """
    try:
        raw = stack.enter_context(log.path.open("rb"))
    except OSError as error:
        raise LogError(f"log {str(log.path)!r} cannot be read ({error.strerror}); give an existing log file") from error
    if _OTHERWISE.match(raw.peek(_MAGIC)):
        raise LogError(f"log {str(log.path)!r} is compressed, and {READ_ONLY}; decompress it first")
    return unpack_log(raw, log.name, quarantine)


def unpack_log(raw: "BufferedReader[Any]", name: str, quarantine: Quarantine) -> Readable:
    """Return a stream's content, decompressed if it is gzip or zstd; damage is reported."""
    return unpack(raw, lambda at, what: quarantine.drop(CUT_SHORT, name, f"byte {at} of the content", what))


def read_blocks(stream: Readable, quarantine: Quarantine, file: str) -> Iterator[bytes]:
    """Yield a stream's content in blocks of about `BLOCK_BYTES`; a stream that fails ends there and is reported."""
    at, pieces, length = 0, [], 0
    while True:
        try:
            piece = stream.read(BLOCK_BYTES)
        except (tarfile.TarError, OSError) as error:
            quarantine.drop(CUT_SHORT, file, f"byte {at} of the content", str(error))
            piece = b""
        pieces.append(piece)
        at, length = at + len(piece), length + len(piece)
        if length >= BLOCK_BYTES or (not piece and length):
            yield b"".join(pieces)
            pieces, length = [], 0
        if not piece:
            return


def line_blocks(stream: Readable, quarantine: Quarantine, file: str) -> Iterator[tuple[int, bytes]]:
    """Yield (number of the first line, from 1; whole lines, each with its newline).

    A line longer than `LINE_BYTES` is reported and left out; no more than that of it is ever held. Its place is taken
    by an empty line, so that the numbers of the lines behind it are right.
    """
    line, carry, skipping = 1, b"", False
    for read in read_blocks(stream, quarantine, file):
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
