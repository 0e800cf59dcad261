"""A lease that this process holds: taken, renewed by a thread where wanted, given up, and never a forked child's."""

import os
import weakref
from threading import Lock
from types import TracebackType
from typing import Final, Self

from foreshard.errors import ConflictError, CorruptDataError, DeadlineError, ObjectNotFoundError, StorageError
from foreshard.keys import DatasetKeys
from foreshard.shards.heartbeat import Heartbeat
from foreshard.shards.lease_record import Lease, read_lease
from foreshard.shards.refetch import refetch
from foreshard.shards.swapping import swap_unique
from foreshard.storage import ObjectStore

_BEATS_PER_TTL: Final = 3
_LOCK_S: Final = 2.0
_RETRIES: Final = 3


class HeldLease:
    """A lease in the store, with the thread that renews it once `keep` was called.

    In a forked child it stays its parent's: the child reads under it and neither renews nor releases it, nor could it
    take another, as clients of stores do not survive a fork.

    Args:
        store: where it is.
        keys: names of the dataset's objects.
        lease: the lease; put into the store here.

    Raises:
        AccessDeniedError: the credentials do not allow to write.
    """

    def __init__(self, store: ObjectStore, keys: DatasetKeys, lease: Lease) -> None:
        self._store, self._keys = store, keys
        self._lease, self._released = lease, False
        self._pid, self._lock = os.getpid(), Lock()
        self._lost: Exception | None = None
        self._put()
        self._heartbeat = Heartbeat(self._beat, lease.ttl / _BEATS_PER_TTL)
        # A holder that is dropped leaves no thread behind; its lease runs out.
        weakref.finalize(self, self._heartbeat.dismiss).atexit = False

    @property
    def key(self) -> str:
        """Key of the lease object."""
        return self._keys.lease(self._lease.kind, self._lease.lease_id)

    def keep(self) -> None:
        """Renew it now, and from a thread from now on: it lives as long as this process, until `release`.

        A process that forks should do so before it calls this. A reader's lease that was released is taken again.

        Raises:
            ConflictError: it had run out and gc has taken it away.
            ObjectNotFoundError: as before, and gc has removed the layout.
            StorageError: the store failed.
        """
        if os.getpid() == self._pid and not self._heartbeat.running:
            with self._lock:
                if self._released or not self._renewed():
                    self._regain()
                self._released, self._lost = False, None
            self._heartbeat.start()

    def renew(self) -> None:
        """Prolong the lease now.

        Raises:
            ConflictError: it had run out and gc has taken it away.
            StorageError: the store failed.
        """
        if os.getpid() == self._pid:
            with self._lock:
                if not self._released and not self._renewed():
                    self._regain()

    def check(self) -> None:
        """Raise what a renewal in the thread found, without a request.

        Raises:
            ConflictError: the lease had run out and gc has taken it away.
        """
        if self._lost is not None:
            raise self._lost

    def release(self) -> None:
        """Give the lease up. If the store cannot be reached it runs out by itself; that is no error."""
        if self._pid != os.getpid():
            return
        self._heartbeat.stop()
        # A renewal that hangs in the store is not waited for.
        if self._lock.acquire(timeout=_LOCK_S):
            try:
                if not self._released:
                    self._released = True
                    self._store.delete([self.key])
            except StorageError:
                pass
            finally:
                self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()

    # -- inside ----------------------------------------------------------------------------------------
    def _beat(self) -> bool:
        try:
            self.renew()
        except (ConflictError, ObjectNotFoundError, CorruptDataError, DeadlineError) as error:
            self._lost = error
            return False
        return True

    def _put(self) -> None:
        raw = self._lease.to_json()
        self._store.create(self.key, raw)
        self._tag: str | None = None  # read when it is first renewed

    def _renewed(self) -> bool:
        for _ in range(_RETRIES):
            if self._tag is None:
                self._tag = refetch(self._store, self._look)
                if self._tag is None:
                    return False
            self._lease = self._lease.renewed()
            self._tag = swap_unique(self._store, self.key, self._lease.to_json(), self._tag)
            if self._tag is not None:
                return True
        return False

    def _look(self) -> str | None:
        """Return the lease's entity tag; None if it is gone or revoked."""
        tagged = self._store.get_tagged(self.key)
        return None if tagged is None or read_lease(tagged[0], self.key).revoked else tagged[1]

    def _regain(self) -> None:
        raise ConflictError(
            f"the {self._lease.what} ran out {self._lease.ttl:.0f} s after its last renewal, and gc has taken it away; "
            "begin again: what is still in place is found there"
        )
