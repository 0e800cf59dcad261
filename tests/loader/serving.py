"""Real stores with something in between: one that counts what it serves, and one that can hang or fail."""

import threading
import time

from foreshard.errors import StorageError
from foreshard.storage import ObjectStore


class CountingStore(ObjectStore):
    """Reads as the store it stands before, and counts the bytes of ranged reads."""

    def __init__(self, store):
        super().__init__(store.url, store._store, store._s3)
        self.served = 0
        self._count = threading.Lock()

    def get_range(self, key, start, end):
        raw = super().get_range(key, start, end)
        with self._count:
            self.served += len(raw)
        return raw


class TroubledStore(CountingStore):
    """Ranged reads wait while `gate` is closed, and fail while `broken` is set."""

    def __init__(self, store):
        super().__init__(store)
        self.gate = threading.Event()
        self.gate.set()
        self.broken = False

    def get_range(self, key, start, end):
        self.gate.wait(30)
        if self.broken:
            raise StorageError(f"{key!r} cannot be read: the store is broken on purpose")
        return super().get_range(key, start, end)


def wait_until(condition, seconds=10):
    """Wait for something that threads bring about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)


def threads():
    """Names of the loader's threads that run."""
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("foreshard-"))
