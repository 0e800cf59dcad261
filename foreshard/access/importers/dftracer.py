"""Imports DFTracer logs (.pfw): a line of JSON an event, a file a process, merged by time.

A request is a sample that the training loop read, named by the file that it was read from; in a log without samples it
is a read of a file. Epochs come from the events that span them. Source: DFTracer's documentation, "DFTracer Format"
(letters as phases and brackets around the lines before version 2, numbers and no brackets since); DLIO's event names.
"""

import io
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import IO, Final, cast

from foreshard.access.importers.collect import Collector
from foreshard.access.importers.dftracer_events import Events
from foreshard.access.importers.dftracer_join import requests_of
from foreshard.access.importers.files import CUT_SHORT, LogFile, line_blocks, open_log, unpack_log
from foreshard.access.importers.options import Options
from foreshard.access.importers.report import Quarantine
from foreshard.access.importers.unpack import Readable

ENDINGS: Final = (".pfw", ".tar", ".tgz")
_MEMBERS: Final = (".pfw", ".pfw.gz", ".pfw.zst")


def import_dftracer(
    files: Sequence[LogFile], options: Options, collector: Collector, quarantine: Quarantine
) -> dict[str, str]:
    """Read the files of one run, or a tar archive of them.

    Raises:
        LogError: a file cannot be read, or samples are asked for and there are none.
    """
    with ExitStack() as stack:
        events = Events(stack, quarantine)
        for log in files:
            if _is_archive(log):
                _read_archive(log, events, quarantine)
            else:
                with ExitStack() as opened:
                    _read_file(open_log(log, opened, quarantine), log.name, events, quarantine)
        events.close()
        requests_of(events, options.requests, collector, quarantine)
    return {}


def _is_archive(log: LogFile) -> bool:
    return log.name.lower().endswith((".tar", ".tar.gz", ".tgz", ".tar.zst"))


def _read_archive(log: LogFile, events: Events, quarantine: Quarantine) -> None:
    """Read an archive from its start to its end, once; nothing is unpacked on disk."""
    with ExitStack() as stack:
        stream = open_log(log, stack, quarantine)
        member = log.name
        try:
            archive = stack.enter_context(tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|"))
            for entry in archive:
                member = f"{log.name}/{entry.name}"
                if entry.isreg() and entry.name.endswith(_MEMBERS):
                    content = io.BufferedReader(_Member(archive, entry))
                    _read_file(unpack_log(content, member, quarantine), member, events, quarantine)
        except (tarfile.TarError, EOFError, OSError) as error:
            quarantine.drop(CUT_SHORT, member, "the archive's rest", str(error))


class _Member(io.RawIOBase):
    """The content of a file in an archive that is read once; unlike tarfile's own, it gives what a cut has left."""

    def __init__(self, archive: tarfile.TarFile, entry: tarfile.TarInfo) -> None:
        self._stream = cast("IO[bytes]", archive.fileobj)
        self._stream.seek(entry.offset_data)
        self._left = entry.size

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """Fill the start of a buffer and return how many bytes that are, 0 at the end."""
        wanted = min(len(buffer), self._left)
        got = self._stream.read(wanted) if wanted else b""
        if len(got) < wanted and not got:
            raise tarfile.ReadError("the archive ends inside of this file")
        self._left -= len(got)
        buffer[: len(got)] = got
        return len(got)


def _read_file(stream: Readable, name: str, events: Events, quarantine: Quarantine) -> None:
    events.begin(name)
    for first, block in line_blocks(stream, quarantine, name):
        for line, raw in enumerate(_lines(block), first):
            events.add(line, raw)


def _lines(block: bytes) -> Iterator[bytes]:
    yield from io.BytesIO(block)
