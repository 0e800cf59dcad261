"""Finds a log's files and tells their format by their names; what lies beside them is reported, not passed over."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from foreshard.access.importers.files import READ_ONLY, LogFile
from foreshard.access.importers.report import Quarantine
from foreshard.errors import ConfigError, LogError

UNREAD: Final = "file of the folder that was not read"

_PACKED: Final = (".gz", ".zst")
_OTHERWISE: Final = (".bz2", ".xz", ".lzma", ".lz4", ".zip", ".7z", ".br", ".z")
_LOOSE: Final = ".txt"
"""May be the name of a log, but a folder that has others has it for something else."""

_PROSE: Final = re.compile(r"(readme|licen[cs]e|notice|changelog|authors)\b")
_SHOWN: Final = 3


@dataclass(frozen=True)
class Found:
    """A log's files.

    Attributes:
        format: the log's format.
        files: those to read, in natural order of their names (`part-9` before `part-10`).
        others: names of those beside them.
    """

    format: str
    files: tuple[LogFile, ...]
    others: tuple[str, ...] = ()

    def tell(self, quarantine: Quarantine) -> None:
        """Report the files that are not read."""
        for name in self.others:
            quarantine.note(UNREAD, name, "whole file")


def find_files(path: Path, asked: str | None, endings: Mapping[str, tuple[str, ...]]) -> Found:
    """Find the files of a log.

    Args:
        path: a file, or a folder, which is searched with the folders in it.
        asked: the format, or None to tell it by the names.
        endings: of the names of every format's files, in small letters.

    Raises:
        ConfigError: the format is unknown, or cannot be told, or the files are compressed in a way that is not read.
        LogError: the folder has no file of the format.
    """
    if asked is not None and asked not in endings:
        raise ConfigError(f"unknown log format {asked!r}; choose one of {', '.join(endings)}")
    if not path.is_dir():
        return Found(asked or _of_file(path, endings), (LogFile(path, path.name),))
    names = sorted(_walk(path), key=natural)
    told = {name: _format(name, endings) for name in names if not _aside(name)}
    format = asked or _of_folder(path, told, endings)  # noqa: A001 -- the word of the command line
    mine = [name for name, known in told.items() if known == format]
    firm = [name for name in mine if not _unpacked(name).endswith(_LOOSE)]
    read = firm or mine
    if not read:
        what = f"folder {str(path)!r} holds no file that ends in {', '.join(endings[format])}"
        held = f", but {_shown(names)}" if names else ""
        raise LogError(f"{what}{held}; give the log's folder")
    chosen = frozenset(read)
    files = tuple(LogFile(path / name, name) for name in read)
    return Found(format, files, tuple(name for name in names if name not in chosen))


def natural(name: str) -> tuple[list[str | int], str]:
    """Return a key that sorts names as people do: numbers in them by their value."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def _walk(folder: Path) -> list[str]:
    found: list[str] = []
    for place, _, names in os.walk(folder):
        found.extend((Path(place) / name).relative_to(folder).as_posix() for name in names)
    return found


def _aside(name: str) -> bool:
    """Return whether a file is no log whatever its ending: hidden, of a program's own folder, or for people to read."""
    *folders, last = name.split("/")
    hidden = last.startswith(".") or any(folder.startswith((".", "_")) for folder in folders)
    return hidden or _PROSE.match(last.lower()) is not None


def _unpacked(name: str) -> str:
    lower = name.lower()
    for packed in _PACKED:
        lower = lower.removesuffix(packed)
    return lower


def _format(name: str, endings: Mapping[str, tuple[str, ...]]) -> str | None:
    lower = _unpacked(name)
    return next((known for known, ends in endings.items() if lower.endswith(ends)), None)


def _of_file(path: Path, endings: Mapping[str, tuple[str, ...]]) -> str:
    if path.name.lower().endswith(_OTHERWISE):
        raise ConfigError(f"log {str(path)!r} is compressed, and {READ_ONLY}; decompress it first")
    known = _format(path.name, endings)
    if known is None:
        raise _untold(path, endings, "")
    return known


def _of_folder(path: Path, told: Mapping[str, str | None], endings: Mapping[str, tuple[str, ...]]) -> str:
    firm = {known: name for name, known in told.items() if known and not _unpacked(name).endswith(_LOOSE)}
    loose = {known: name for name, known in told.items() if known}
    formats = firm or loose
    if len(formats) > 1:
        held = ", ".join(f"{known} ({name})" for known, name in formats.items())
        raise ConfigError(f"folder {str(path)!r} holds files of several formats: {held}; give format, one of these")
    if not formats:
        packed = any(name.lower().endswith(_OTHERWISE) for name in told)
        held = f" nor by the names in it: {_shown(list(told))}" if told else ""
        raise _untold(path, endings, held + (f" ({READ_ONLY})" if packed else ""))
    return next(iter(formats))


def _untold(path: Path, endings: Mapping[str, tuple[str, ...]], held: str) -> ConfigError:
    what = f"the format of log {str(path)!r} cannot be told by its name{held}"
    return ConfigError(f"{what}; give format, one of {', '.join(endings)}")


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
