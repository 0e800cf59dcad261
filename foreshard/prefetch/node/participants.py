"""Who uses a node's cache: each process holds the lock of a file of its own, so that everyone can see who has died."""

import os
import secrets

import numpy as np

from foreshard.errors import ConfigError
from foreshard.locking import is_locked, open_file, try_lock
from foreshard.prefetch.node.folder import Folder
from foreshard.prefetch.node.table import PARTICIPANTS, Table


class Participants:
    """The participants that a table lists; all methods are called under the folder's lock.

    Args:
        folder: where their files are.
        table: the state.
    """

    def __init__(self, folder: Folder, table: Table) -> None:
        self._folder, self._table = folder, table

    def alive(self, index: int) -> bool:
        """Whether the process with this number lives; a stopped one does."""
        return bool(self._table.pids[index]) and is_locked(self._folder.participant(index))

    def listed(self) -> list[int]:
        """Return the numbers of all that did not leave, alive or dead."""
        return np.flatnonzero(self._table.pids).tolist()

    def round(self) -> int:
        """Return how many chunks are used while each participant reads all of its own once; 0 if that is not known."""
        return int(self._table.populations[self._table.pids != 0].sum())

    def living_nonces(self) -> set[int]:
        """Return the nonces of all that live."""
        return {int(self._table.nonces[index]) for index in self.listed() if self.alive(index)}

    def join(self, population: int) -> tuple[int, int]:
        """Take a number that nobody has, and return it with the descriptor of its locked file.

        Args:
            population: chunks that it reads again and again; 0 if that is not known.

        Raises:
            ConfigError: all numbers are taken.
        """
        for index in np.flatnonzero(self._table.pids == 0).tolist():
            handle = open_file(self._folder.participant(index))
            if try_lock(handle):
                self._table.nonces[index] = secrets.randbits(62)
                self._table.populations[index] = population
                self._table.pids[index] = os.getpid()
                return index, handle
            os.close(handle)
        raise ConfigError(
            f"{PARTICIPANTS} processes use the node cache in {str(self._folder.path)!r} already; give some of them "
            "another folder"
        )
