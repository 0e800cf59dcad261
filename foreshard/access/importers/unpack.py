"""Decompresses gzip and zstd and, where the data are cut short or damaged, still gives all that is in front of that."""

import io
import zlib
from collections.abc import Callable
from typing import IO, Any, Final, Protocol

import pyarrow as pa

Damaged = Callable[[int, str], None]
"""Told of (bytes of content in front of the damage, what is wrong)."""

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_FEED: Final = 1 << 16
_SMALL: Final = 1 << 12


class Readable(Protocol):
    """Gives some bytes, at most as many as asked for; none at the end."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes."""
        ...


def unpack(raw: "io.BufferedReader[Any]", damaged: Damaged) -> Readable:
    """Return a stream's content, decompressed if its first bytes are those of gzip or zstd.

    Args:
        raw: a buffered stream at its start; it need not be able to seek.
        damaged: is told, once, where compressed data are damaged; the content ends there.
    """
    start = raw.peek(4)[:4]
    if start.startswith(_GZIP):
        return _Gunzip(raw, damaged)
    return _Unzstd(raw, damaged) if start == _ZSTD else _Plain(raw)


class _Plain:
    def __init__(self, raw: io.BufferedReader) -> None:
        self._raw = raw

    def read(self, size: int, /) -> bytes:
        # `read` tries until it has all, and if that fails, forgets what it had; as in an archive that is cut short.
        return self._raw.read1(size)


class _Gunzip:
    def __init__(self, raw: io.BufferedReader, damaged: Damaged) -> None:
        self._raw = raw
        self._damaged = damaged
        self._member = zlib.decompressobj(wbits=31)
        self._input = b""
        self._at = 0
        self._over = False

    def read(self, size: int, /) -> bytes:
        while not self._over:
            self._input = self._input or self._raw.read1(_FEED)
            if self._member.eof and not self._next_member():
                break
            out = self._end() if not self._input else self._decompress(size)
            self._at += len(out)
            if out:
                return out
        return b""

    def _next_member(self) -> bool:
        """Go on with what follows a member: another one, or nothing, or padding."""
        self._input = self._input.lstrip(b"\0")
        if self._input and not self._input.startswith(_GZIP[:1]):
            self._fail("bytes that are no gzip behind its end")
        self._over = self._over or not self._input
        self._member = zlib.decompressobj(wbits=31)
        return not self._over

    def _decompress(self, size: int) -> bytes:
        before = self._member.copy()
        try:
            out = self._member.decompress(self._input, size)
        except zlib.error as error:
            self._fail(str(error))
            return _salvage(before, self._input)
        self._input = self._member.unconsumed_tail or self._member.unused_data
        return out

    def _end(self) -> bytes:
        rest = self._member.flush()
        self._fail("it ends before its end mark")
        return rest

    def _fail(self, what: str) -> None:
        self._over = True
        self._damaged(self._at, what)


def _salvage(member: Any, data: bytes) -> bytes:  # noqa: ANN401 -- zlib does not export the type
    """Return what can be decompressed in front of the byte that is wrong."""
    out: list[bytes] = []
    try:
        out.extend(member.decompress(data[i : i + 1]) for i in range(len(data)))
    except zlib.error:
        return b"".join(out)
    return b"".join(out)


class _Unzstd:
    def __init__(self, raw: IO[bytes], damaged: Damaged) -> None:
        self._raw = raw
        self._damaged = damaged
        self._at = 0
        self._over = False
        self._stream: Any = pa.CompressedInputStream(raw, "zstd")  # type: ignore[arg-type] -- the stubs lack files

    def read(self, size: int, /) -> bytes:
        if self._over:
            return b""
        try:
            # A read that fails loses what it had: small ones lose little, and are made again byte by byte.
            out = self._stream.read(min(size, _SMALL))
        except OSError as error:
            self._over = True
            self._damaged(self._at, str(error))
            return self._salvage()
        self._at += len(out)
        return out

    def _salvage(self) -> bytes:
        """Return what the failed read had, where the file can be read again."""
        if not self._raw.seekable():
            return b""
        self._raw.seek(0)
        stream: Any = pa.CompressedInputStream(self._raw, "zstd")  # type: ignore[arg-type]
        out = b""
        try:
            for at in range(0, self._at, _SMALL):
                stream.read(min(_SMALL, self._at - at))
            while byte := stream.read(1):
                out += byte
        except OSError:
            return out
        return out
