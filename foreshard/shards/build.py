"""Make the shards of one group from its rows: the unit of work that threads, processes or nodes share."""

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.keys import DatasetKeys
from foreshard.shards.codec import encode_shard
from foreshard.shards.gather import Rows
from foreshard.shards.pieces import Pieces
from foreshard.shards.putting import Putter
from foreshard.shards.shard_table import PutShard
from foreshard.storage import ObjectStore

_SLACK: Final = 1.1
_MESSAGE: Final = 4096
"""About what a chunk needs beside its values: metadata, padding and its entry in the footer."""


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
    rows = task.rows.load()
    share = rows.nbytes / len(task.rows.ids)
    return [putter.submit(shard.number, *_encode(rows, task.rows.ids, shard, share)) for shard in task.shards]


def build_group(task: GroupTask) -> list[PutShard]:
    """Make and put the shards of a group, in a process that does nothing else.

    Raises:
        SourceError: rows are missing.
        StorageError: the store failed; shards that are in place stay there.
    """
    with Putter(task.store, task.keys) as putter:
        return [future.result() for future in make_group(task, putter)]


def _encode(
    rows: Pieces, ids: NDArray[np.int64], shard: ShardTask, row_bytes: float
) -> tuple[pa.Buffer, list[tuple[int, int]]]:
    chunks = _Chunks(rows, np.searchsorted(ids, shard.stored), shard.offsets.tolist())
    room = int(row_bytes * len(shard.stored) * _SLACK) + _MESSAGE * len(shard.offsets)
    return encode_shard(chunks, shard.compression, schema=rows.schema, room=room)


@dataclass(frozen=True)
class _Chunks:
    """The chunks of a shard, each made when it is its turn."""

    rows: Pieces
    positions: NDArray[np.int64]
    offsets: list[int]

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return (self.rows.take(self.positions[start:end]) for start, end in pairwise(self.offsets))
