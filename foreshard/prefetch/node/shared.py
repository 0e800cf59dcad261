"""A process's hold on a node's cache: descriptors, the mapped table, and the lock under which it is changed."""

import os
import threading
import weakref
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from foreshard.errors import ConfigError, DeadlineError
from foreshard.locking import lock, unlock
from foreshard.prefetch.node.folder import Folder
from foreshard.prefetch.node.ledger import Ledger
from foreshard.prefetch.node.stats import NodeStats
from foreshard.prefetch.node.table import DIRTY, HOLDER, Table, slots_for

_NOBODY: Final = -1


class Shared:
    """The shared state of a folder, opened when it is first locked, and anew in a forked child.

    Args:
        folder: where it is.
        budget: bytes that chunks may take up.
        typical: usual bytes of a chunk; sizes the table.
        population: chunks that this participant reads again and again; 0 if that is not known.
        timeout: seconds to wait for the lock.
        stats: counters of this process.

    Attributes:
        ledger: what changes the state; None until it is opened.
        me: number of this participant.
        nonce: its nonce.
        counting: guards the counters.
    """

    def __init__(
        self, folder: Folder, budget: int, typical: int, population: int, timeout: float, stats: NodeStats
    ) -> None:
        self.folder = folder
        self._budget, self._typical, self._population = budget, typical, population
        self._timeout, self._stats = timeout, stats
        self._handles = _Handles()
        self._start()
        _OPEN.add(self)
        weakref.finalize(self, _Handles.close, self._handles)

    def _start(self) -> None:
        self._pid, self._mutex, self.counting = os.getpid(), threading.Lock(), threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._handles.close()
        self.ledger: Ledger | None = None
        self.me = self.nonce = _NOBODY

    def leave_to_parent(self) -> None:
        """In a forked child: close the descriptors that came along, else the kernel thinks that the parent lives on.

        They are not unlocked, as that would unlock them for the parent, too.
        """
        self._start()

    @property
    def opened(self) -> Ledger | None:
        """The ledger if this process has opened it."""
        return self.ledger if self._pid == os.getpid() else None

    @contextmanager
    def exclusive(self) -> Generator[Ledger]:
        """Open the state if need be, and hold its lock.

        Raises:
            DeadlineError: others held the lock for too long.
            ConfigError: the folder has another format, or is in use with another budget.
            OSError: the folder cannot be used any more.
        """
        if self._pid != os.getpid():
            self.leave_to_parent()
        with self._alone(), self._locked() as ledger:
            yield ledger

    def close(self) -> None:
        """Leave the cache; the next use joins again.

        Raises:
            DeadlineError: the lock was held for too long; if by another process, that one finds that this one left.
        """
        if self.opened is None:
            return
        with self._alone():
            try:
                with self._locked() as ledger:
                    ledger.bury(self.me)
            finally:
                self._forget()

    # -- inside ---------------------------------------------------------------------------------------
    @contextmanager
    def _alone(self) -> Generator[None]:
        """Keep the other threads of this process out, for which its locks of files are one and the same."""
        if not self._mutex.acquire(timeout=self._timeout):
            raise self._overdue()
        try:
            yield
        finally:
            self._mutex.release()

    @contextmanager
    def _locked(self) -> Generator[Ledger]:
        if self._handles.lock < 0:
            self._handles.lock = self.folder.open_lock()
        if not lock(self._handles.lock, self._timeout):
            raise self._overdue()
        try:
            ledger = self.ledger or self._open()
            head = ledger.table.head
            head[HOLDER] = self._pid
            if head[DIRTY]:  # somebody died or failed in the middle of a change
                ledger.reconcile()
            head[DIRTY] = 1
            yield ledger
            head[DIRTY] = 0
        finally:
            unlock(self._handles.lock)

    def _open(self) -> Ledger:
        """Join, as the first or as one of several; called under the lock."""
        self.folder.check_mark(self._handles.lock)
        slots = slots_for(self._budget, self._typical)
        try:
            ledger = self._ledger(Table(self.folder.state))
            others = any(ledger.participants.alive(index) for index in ledger.participants.listed())
        except (FileNotFoundError, ValueError):
            ledger, others = None, False
        if ledger is not None and others and ledger.table.budget != self._budget:
            raise ConfigError(
                f"the node cache in {str(self.folder.path)!r} is in use with {ledger.table.budget} bytes, this process "
                f"asks for {self._budget}; give all processes that share the folder the same bytes"
            )
        if ledger is None or (not others and (ledger.table.budget, ledger.table.slots) != (self._budget, slots)):
            ledger = self._ledger(Table.create(self.folder.state, self._budget, slots))
        head = ledger.table.head
        if not others or head[DIRTY]:
            ledger.reconcile()
        head[DIRTY] = 1
        ledger.bury_dead()
        self.me, self._handles.participant = ledger.participants.join(self._population)
        self.nonce = int(ledger.table.nonces[self.me])
        head[DIRTY] = 0
        self.ledger = ledger
        return ledger

    def _ledger(self, table: Table) -> Ledger:
        return Ledger(self.folder, table, self._stats)

    def _overdue(self) -> DeadlineError:
        holder = "" if self.ledger is None else f" by process {self.ledger.table.head[HOLDER]}"
        return DeadlineError(
            f"the lock of the node cache in {str(self.folder.path)!r} was held{holder} for {self._timeout} s; that "
            "process is stopped, or the disk hangs: let it go on or end it"
        )


class _Handles:
    """Descriptors that must be closed when their owner is dropped, and in a forked child."""

    def __init__(self) -> None:
        self.lock = self.participant = -1

    def close(self) -> None:
        for handle in (self.participant, self.lock):
            if handle >= 0:
                os.close(handle)
        self.lock = self.participant = -1


_OPEN: Final["weakref.WeakSet[Shared]"] = weakref.WeakSet()


def _in_child() -> None:
    for shared in list(_OPEN):
        shared.leave_to_parent()


os.register_at_fork(after_in_child=_in_child)
