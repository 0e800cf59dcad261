"""Folders of results that are there whole or not at all, and that no other run's results are lost to."""

import os
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from foreshard.errors import ConfigError, StorageError


def check_folder(folder: Path, known: Collection[str], *, replace: bool = False) -> None:
    """Refuse a folder that results must not be written to; called before hours of work as well as by `write_folder`.

    Args:
        folder: where they are to go.
        known: names of the files that results may consist of.
        replace: whether older results may be replaced. Nothing but files of known names ever is.

    Raises:
        ConfigError: it is a file, or holds older results or something else.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ConfigError(f"{str(folder)!r} is not a folder; name one that does not exist yet")
    there = sorted(each.name for each in folder.iterdir()) if folder.exists() else []
    foreign = [name for name in there if name not in known or not (folder / name).is_file()]
    if foreign:
        raise ConfigError(
            f"{str(folder)!r} holds {foreign[0]!r}, which is no result of this command and is left alone; name "
            "another folder"
        )
    if there and not replace:
        raise ConfigError(
            f"{str(folder)!r} holds another run's output ({', '.join(there[:3])}{', ...' if there[3:] else ''}); name "
            "another folder, or replace it with --force"
        )


def write_folder(
    folder: Path, files: Mapping[str, bytes | Path], known: Collection[str], *, replace: bool = False
) -> None:
    """Write files into a folder so that a crash leaves the old folder, none, or the new one, never a mixture.

    The files are written and synced in a temporary folder beside it, which then takes its name.

    Args:
        folder: where they are to go; parents are made.
        files: contents by name, or files to be copied.
        known: see `check_folder`.
        replace: whether older results may be replaced; files of theirs that are not among `files` go.

    Raises:
        ConfigError: see `check_folder`.
        StorageError: the file system refused.
    """
    folder = folder.absolute()
    check_folder(folder, known, replace=replace)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as place:
            new, old = Path(place) / "new", Path(place) / "old"
            new.mkdir()
            for name, raw in files.items():
                _write(new / name, raw)
            _sync(new)
            _take_the_place(folder, new, old, replace=replace)
            _sync(folder.parent)
    except OSError as error:
        raise StorageError(
            f"cannot write {str(folder)!r}: {error.strerror}; choose a folder that can be written"
        ) from error


def _take_the_place(folder: Path, new: Path, old: Path, *, replace: bool) -> None:
    # Otherwise only no folder or an empty one may give way: that of a run which was quicker makes the renaming fail.
    if replace and folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        # Whatever came between, Ctrl-C too: the older results go with the temporary folder unless they are put back.
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise


def _write(path: Path, content: bytes | Path) -> None:
    with path.open("wb") as file:
        if isinstance(content, Path):
            with content.open("rb") as source:
                shutil.copyfileobj(source, file)
        else:
            file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Make the names in a folder last, where the file system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
