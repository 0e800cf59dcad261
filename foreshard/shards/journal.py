"""What an unfinished materialisation has put already, so that the next attempt neither reads nor makes it again."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from foreshard.errors import CorruptDataError, ObjectNotFoundError
from foreshard.keys import DatasetKeys, LayoutRef
from foreshard.shards.columns import binary_rows, fixed_binary
from foreshard.shards.header import ShardRef
from foreshard.shards.parts import part_ref, write_part
from foreshard.shards.shard_table import PutShard
from foreshard.storage import ObjectStore

_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("sha256", pa.binary(32), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("end", pa.int64(), nullable=False),
        pa.field("checksum", pa.uint64(), nullable=False),
    ]
)
"""One row per stored chunk, in stored order."""


def write_journal(store: ObjectStore, keys: DatasetKeys, ref: LayoutRef, shards: Sequence[PutShard]) -> None:
    """Record shards that are in place."""
    chunks = [len(shard.starts) for shard in shards]
    digests = np.frombuffer(b"".join(bytes.fromhex(shard.ref.sha256) for shard in shards), np.uint8).reshape(-1, 32)
    columns = [
        pa.array(np.repeat(np.array([shard.number for shard in shards], np.int32), chunks)),
        fixed_binary(np.repeat(digests, chunks, axis=0)),
        pa.array(np.repeat(np.array([shard.ref.size for shard in shards], np.int64), chunks)),
        pa.array(np.concatenate([shard.starts for shard in shards])),
        pa.array(np.concatenate([shard.ends for shard in shards])),
        pa.array(np.concatenate([shard.checksums for shard in shards])),
    ]
    raw = write_part(pa.RecordBatch.from_arrays(columns, schema=_SCHEMA))
    name = part_ref("journal", raw).name
    # Replaced if it is there: a damaged record would block every further attempt.
    store.put(keys.journal(ref.generation, ref.plan_digest, name), memoryview(raw).cast("B"))


def read_journal(store: ObjectStore, keys: DatasetKeys, ref: LayoutRef) -> list[PutShard]:
    """Return the shards that earlier attempts recorded; shards of damaged records are left out, and made again."""
    found: dict[int, PutShard] = {}
    for key in journal_keys(store, keys, ref):
        try:
            raw = pa.py_buffer(store.get(key))
        except ObjectNotFoundError:  # a rival attempt has committed and tidied up
            continue
        if part_ref("journal", raw).name != key.rpartition("/")[2]:
            continue
        found |= {shard.number: shard for shard in _decode(raw, key, keys)}
    return list(found.values())


def clear_journal(store: ObjectStore, keys: DatasetKeys, ref: LayoutRef) -> None:
    """Delete the records of a committed layout."""
    store.delete(journal_keys(store, keys, ref))


def journal_keys(store: ObjectStore, keys: DatasetKeys, ref: LayoutRef) -> list[str]:
    """Return the keys of a layout's records."""
    return [meta.key for meta in store.list(keys.journal(ref.generation, ref.plan_digest, ""))]


def _decode(raw: pa.Buffer, key: str, keys: DatasetKeys) -> list[PutShard]:
    try:
        batch = pa.ipc.open_file(pa.BufferReader(raw)).get_batch(0)
    except (pa.ArrowInvalid, OSError) as error:
        raise CorruptDataError(f"{key!r} is not a journal ({error}); delete it and materialise again") from error
    if not batch.schema.equals(_SCHEMA):
        raise CorruptDataError(f"{key!r} has the schema {batch.schema}; delete it and materialise again")
    number = batch.column("shard").to_numpy()
    digests, sizes = binary_rows(batch.column("sha256")), batch.column("size").to_numpy()
    starts, ends, sums = (batch.column(name).to_numpy() for name in ("start", "end", "checksum"))
    shards: list[PutShard] = []
    for rows in np.split(np.arange(len(number)), np.flatnonzero(np.diff(number)) + 1):
        sha256 = bytes(digests[rows[0]]).hex()
        ref = ShardRef(keys.shard(sha256), sha256, int(sizes[rows[0]]))
        shards.append(PutShard(int(number[rows[0]]), ref, starts[rows], ends[rows], sums[rows], written=False))
    return shards
