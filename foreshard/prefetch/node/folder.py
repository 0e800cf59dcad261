"""The folder of a node's cache: what lies where, whose it is, and that nothing else is in it.

lock                 names the format; whoever holds its lock may change the state
state                the mapped table, see `table.py`
participants/0007    one file per process that uses the cache, locked while it lives
parts/               files being written
chunks/<key>.chunk   the chunks
layouts/             parts of layouts, see `shelf.py`
"""

import os
import re
import socket
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from foreshard.errors import ConfigError
from foreshard.locking import open_file
from foreshard.prefetch.node.keys import file_of, key_of
from foreshard.prefetch.node.mounts import check_local

FORMAT: Final = 1
"""Version of the folder, its state and its keys."""

_MARK: Final = f"foreshard node cache, format {FORMAT}\n".encode()
_NAMES: Final = frozenset({"lock", "state", "participants", "parts", "chunks", "layouts"})
_PART: Final = re.compile(r"[A-Za-z0-9_.-]+\+[0-9]+\+([0-9a-f]{16})\+[0-9a-f]{32}\.part")
_HOST: Final = re.sub(r"[^A-Za-z0-9_.-]", "_", socket.gethostname())[:64] or "localhost"


class Folder:
    """Names of what is in the folder; it is made if it is missing.

    Args:
        path: the folder.

    Attributes:
        path: the same, absolute.
        state: the mapped table.
        layouts: where parts of layouts are.

    Raises:
        ConfigError: it cannot be made or written, is on a network or FUSE file system, or holds other files.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser().absolute()
        self.state = self.path / "state"
        self.layouts = self.path / "layouts"
        self._participants, self._parts, self._chunks = (
            self.path / name for name in ("participants", "parts", "chunks")
        )
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_local(self.path)
            others = sorted({path.name for path in self.path.iterdir()} - _NAMES)
            if others and not (self.path / "lock").exists():
                raise ConfigError(
                    f"folder {str(self.path)!r} for the node cache holds other files ({', '.join(others[:3])}); name a "
                    "new or empty folder, as the cache removes files in its own"
                )
            for folder in (self._participants, self._parts, self._chunks, self.layouts):
                folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error

    def open_lock(self) -> int:
        """Open the file whose lock guards the state.

        Raises:
            ConfigError: this user may not.
        """
        try:
            return open_file(self.path / "lock")
        except OSError as error:
            raise self._unusable(error) from error

    def check_mark(self, handle: int) -> None:
        """Check that the folder has this version's format, or mark a new one; called under the lock.

        Raises:
            ConfigError: it has another.
        """
        found = os.pread(handle, 1024, 0)
        if not found:
            os.pwrite(handle, _MARK, 0)
        elif found != _MARK:
            raise ConfigError(
                f"folder {str(self.path)!r} is marked {found[:60]!r}, this foreshard uses {_MARK!r}; name another "
                "folder, or remove this one once no job uses it"
            )

    def _unusable(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"folder {str(self.path)!r} of the node cache cannot be used: {error}; name a folder that this user may "
            "write, the same for all processes of a job"
        )

    def participant(self, index: int) -> Path:
        """Return the file that a participant locks while it lives."""
        return self._participants / f"{index:04d}"

    def chunk(self, key: bytes) -> Path:
        """Return the file of a chunk."""
        return self._chunks / file_of(key)

    def part(self, nonce: int) -> Path:
        """Return a new name for a file being written.

        Args:
            nonce: of the participant that writes it.
        """
        return self._parts / f"{_HOST}+{os.getpid()}+{nonce:016x}+{uuid.uuid4().hex}.part"

    def sweep_parts(self, living: set[int]) -> None:
        """Remove what participants were writing when they died.

        Args:
            living: nonces of those that live.
        """
        for path in self._parts.iterdir():
            match = _PART.fullmatch(path.name)
            if match and int(match[1], 16) not in living:
                remove(path)

    def chunks(self) -> Iterator[tuple[bytes, int, float]]:
        """Yield key, bytes and time of writing of every chunk's file; other files are none of ours."""
        with os.scandir(self._chunks) as entries:
            for entry in entries:
                key = key_of(entry.name)
                if key is not None and entry.is_file(follow_symlinks=False):
                    found = entry.stat(follow_symlinks=False)
                    yield key, found.st_size, found.st_mtime


def remove(path: Path) -> None:
    """Remove a file unless somebody else did; who has it open can read on."""
    with suppress(FileNotFoundError):
        path.unlink()
