"""Make the shards of one group from its rows and put them: the unit of work that threads, processes or nodes share."""

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.keys import DatasetKeys
from foreshard.shards.codec import checksum, encode_shard
from foreshard.shards.gather import Rows
from foreshard.shards.header import ShardRef
from foreshard.shards.shard_table import PutShard
from foreshard.storage import ObjectStore

_PUTS: Final = 8
_IN_FLIGHT: Final = 64 << 20
"""Encoded bytes of one group that may wait for the store, beside the shard that is being put."""


@dataclass(frozen=True)
class ShardTask:
    """One shard to make.

    Attributes:
        number: in the plan.
        stored: int64, its sample ids in stored order.
        offsets: (m + 1,) int64, where its chunks begin in `stored`.
        compression: of its record batches.
    """

    number: int
    stored: NDArray[np.int64]
    offsets: NDArray[np.int64]
    compression: str


@dataclass(frozen=True)
class GroupTask:
    """Shards to make from the same rows."""

    store: ObjectStore
    keys: DatasetKeys
    rows: Rows
    shards: tuple[ShardTask, ...]


def build_group(task: GroupTask) -> list[PutShard]:
    """Make and put the shards of a group, in order.

    Raises:
        SourceError: rows are missing.
        StorageError: the store failed; shards that are in place stay there.
    """
    table = task.rows.load()
    done: list[PutShard] = []
    waiting: deque[tuple[int, Future[PutShard]]] = deque()
    with ThreadPoolExecutor(_PUTS, "foreshard-put") as pool:
        for shard in task.shards:
            raw, ranges = _encode(table, task.rows.ids, shard)
            while waiting and sum(size for size, _ in waiting) + raw.size > _IN_FLIGHT:
                done.append(waiting.popleft()[1].result())
            waiting.append((raw.size, pool.submit(_put, task.store, task.keys, shard.number, raw, ranges)))
        done += [future.result() for _, future in waiting]
    return done


def _encode(table: pa.Table, ids: NDArray[np.int64], shard: ShardTask) -> tuple[pa.Buffer, list[tuple[int, int]]]:
    positions = np.searchsorted(ids, shard.stored)
    batches = [
        table.take(positions[start:end]).combine_chunks().to_batches()[0]
        for start, end in zip(shard.offsets[:-1].tolist(), shard.offsets[1:].tolist(), strict=True)
    ]
    return encode_shard(batches)


def _put(store: ObjectStore, keys: DatasetKeys, number: int, raw: pa.Buffer, ranges: list[tuple[int, int]]) -> PutShard:
    view = memoryview(raw).cast("B")  # obstore takes unsigned bytes only
    sums = np.array([checksum(view[start:end]) for start, end in ranges], np.uint64)
    digest = hashlib.sha256(view).hexdigest()
    key = keys.shard(digest)
    # The name is the digest of the content, so an object that is there need not be sent again.
    written = not store.exists(key) and store.create(key, view)
    starts, ends = np.array(ranges, np.int64).T
    return PutShard(number, ShardRef(key, digest, len(view)), starts.copy(), ends.copy(), sums, written)
