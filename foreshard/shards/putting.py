"""Puts encoded shards in threads of its own, beside those that make them, as many bytes at a time as memory allows."""

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Condition
from types import TracebackType
from typing import Final, Self

import numpy as np
import pyarrow as pa

from foreshard.errors import DeadlineError
from foreshard.keys import DatasetKeys
from foreshard.shards.codec import checksum
from foreshard.shards.header import ShardRef
from foreshard.shards.shard_table import PutShard
from foreshard.storage import ObjectStore

THREADS: Final = 8
IN_FLIGHT: Final = 192 << 20
"""Encoded bytes that may wait for a server or be on their way to it; as it answers late, it needs many at once."""

IN_FLIGHT_LOCAL: Final = 64 << 20
"""The same for a local folder."""


class Putter:
    """A context in which shards are put.

    Args:
        store: where to put them.
        keys: names of the dataset's objects.
    """

    def __init__(self, store: ObjectStore, keys: DatasetKeys) -> None:
        self._store, self._keys = store, keys
        self._pool = ThreadPoolExecutor(THREADS, "foreshard-put")
        self._bytes, self._changed = 0, Condition()
        self._most = IN_FLIGHT_LOCAL if store.local else IN_FLIGHT
        self._deadline = store.timeouts.deadline(requests=THREADS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)

    def submit(self, number: int, raw: pa.Buffer, ranges: list[tuple[int, int]]) -> Future[PutShard]:
        """Put a shard as soon as a thread is free; waits while too many bytes are under way.

        Raises:
            DeadlineError: the store has taken none for too long.
        """
        with self._changed:
            if not self._changed.wait_for(
                lambda: not self._bytes or self._bytes + raw.size <= self._most, self._deadline
            ):
                raise DeadlineError(
                    f"no shard was put in {self._store.url} within {self._deadline:.0f} s, with {self._bytes} bytes on "
                    "their way; check the store, then run this again: what is there is not put again"
                )
            self._bytes += raw.size
        future = self._pool.submit(self._put, number, raw, ranges)
        size = raw.size
        future.add_done_callback(lambda _: self._done(size))
        return future

    def _done(self, size: int) -> None:
        with self._changed:
            self._bytes -= size
            self._changed.notify_all()

    def _put(self, number: int, raw: pa.Buffer, ranges: list[tuple[int, int]]) -> PutShard:
        view = memoryview(raw).cast("B")  # obstore takes unsigned bytes only
        sums = np.array([checksum(view[start:end]) for start, end in ranges], np.uint64)
        digest = hashlib.sha256(view).hexdigest()
        key = self._keys.shard(digest)
        written = self._store.put_content(key, view)
        starts, ends = np.array(ranges, np.int64).T
        return PutShard(number, ShardRef(key, digest, len(view)), starts.copy(), ends.copy(), sums, written)
