"""Make the shards of one group from its rows: the unit of work that threads, processes or nodes share."""

from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.keys import DatasetKeys
from foreshard.shards.codec import encode_shard, take_chunks
from foreshard.shards.gather import Rows
from foreshard.shards.putting import Putter
from foreshard.shards.shard_table import PutShard
from foreshard.storage import ObjectStore


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


def make_group(task: GroupTask, putter: Putter) -> list[Future[PutShard]]:
    """Make the shards of a group in order and hand them to be put.

    Raises:
        SourceError: rows are missing.
    """
    table = task.rows.load()
    return [putter.submit(shard.number, *_encode(table, task.rows.ids, shard)) for shard in task.shards]


def build_group(task: GroupTask) -> list[PutShard]:
    """Make and put the shards of a group, in a process that does nothing else.

    Raises:
        SourceError: rows are missing.
        StorageError: the store failed; shards that are in place stay there.
    """
    with Putter(task.store, task.keys) as putter:
        return [future.result() for future in make_group(task, putter)]


def _encode(table: pa.Table, ids: NDArray[np.int64], shard: ShardTask) -> tuple[pa.Buffer, list[tuple[int, int]]]:
    positions = np.searchsorted(ids, shard.stored)
    return encode_shard(take_chunks(table, positions, shard.offsets), shard.compression)
