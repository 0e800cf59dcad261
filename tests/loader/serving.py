"""Real stores with something in between: one that counts what it serves, and one that can hang or fail."""

import threading

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
        self.count(len(raw))
        return raw

    def direct(self):
        return ReadsBehind(self, super().direct())

    def ready(self, *_range):
        """Return whether a read straight into memory may begin."""
        return True

    def count(self, nbytes):
        with self._count:
            self.served += nbytes


class ReadsBehind:
    """Reads straight into memory as the store they belong to allows."""

    def __init__(self, store, reads):
        self._store, self._reads = store, reads

    def read(self, key, start, targets):
        total = sum(map(len, targets))
        done = self._store.ready(key, start, start + total) and self._reads.read(key, start, targets)
        if done:
            self._store.count(total)
        return done

    def close(self):
        self._reads.close()


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

    def ready(self, *_range):
        self.gate.wait(30)
        return not self.broken


def threads():
    """Names of the loader's threads that run."""
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("foreshard-"))
