"""The columnar parts of layouts on this machine's disk: downloaded once for all of its processes, and mapped by each.

They lie beside a node's chunks, in the same folder, named by their digest, and hold nobody up: what cannot be had from
here in time is read from the store.

layouts/<digest>.part   a part
layouts/<digest>.new    one that is being downloaded, by whoever holds the lock
layouts/<digest>.lock   there while somebody holds it
"""

import logging
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import pyarrow as pa

from foreshard.errors import DeadlineError
from foreshard.locking import passing_lock
from foreshard.prefetch.node.folder import Folder, remove
from foreshard.shards.header import PartRef
from foreshard.shards.parts import map_part

_KEPT: Final = 16
"""Parts that stay: those of about four layouts. Who has mapped one that goes can read on."""

_NAME: Final = re.compile(r"[0-9a-f]{64}\.(part|new|lock)")
_log: Final = logging.getLogger(__name__)


class PartShelf:
    """Parts of layouts by content, shared by the processes of a machine; see `foreshard.shards.parts.Shelf`.

    Args:
        folder: the node cache's.
        timeout: seconds to wait for another process's download.
    """

    def __init__(self, folder: Folder, timeout: float) -> None:
        self._path, self._timeout = folder.layouts, timeout

    def load(self, part: PartRef, download: Callable[[int], None]) -> pa.Buffer | None:
        """Return a part, verified and mapped.

        Args:
            part: which.
            download: writes its bytes to a file, given by its descriptor.

        Returns:
            None if what was downloaded does not verify, or the disk fails, or another process takes too long: the part
            is then to be read without the shelf.

        Raises:
            StorageError: the download failed.
        """
        try:
            found = self._kept(part)
            if found is None:
                with passing_lock(self._file(part, "lock"), self._timeout):
                    found = self._kept(part) or self._add(part, download)
                self._trim()
        except (OSError, DeadlineError) as error:
            _log.warning("part %s is read without the disk tier in %s: %s", part.name, self._path.parent, error)
            return None
        return found

    def _file(self, part: PartRef, kind: str) -> Path:
        return self._path / f"{part.sha256}.{kind}"

    def _kept(self, part: PartRef) -> pa.Buffer | None:
        """Return a part that is there and right."""
        path = self._file(part, "part")
        try:
            found = map_part(path, part)
            os.utime(path)  # it is in use
        except FileNotFoundError:
            return None
        return found

    def _add(self, part: PartRef, download: Callable[[int], None]) -> pa.Buffer | None:
        """Download a part; called under its lock, so nobody else writes this file."""
        fresh = self._file(part, "new")
        try:
            handle = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                download(handle)
            finally:
                os.close(handle)
            found = map_part(fresh, part)
            if found is not None:
                fresh.replace(self._file(part, "part"))
        finally:
            remove(fresh)
        return found

    def _trim(self) -> None:
        """Remove the parts unused for longest, and what killed processes were downloading."""
        parts: list[tuple[float, Path]] = []
        for path in self._path.iterdir():
            with suppress(FileNotFoundError):
                if not _NAME.fullmatch(path.name):
                    continue
                if path.suffix == ".part":
                    parts.append((path.stat().st_mtime, path))
                elif path.suffix == ".new":
                    with suppress(DeadlineError), passing_lock(path.with_suffix(".lock"), 0):
                        remove(path)
        for _, path in sorted(parts)[:-_KEPT]:
            remove(path)
