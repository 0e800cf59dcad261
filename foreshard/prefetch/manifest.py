"""The prefetch manifest of a node: which chunks to have in memory, in which order, why, and where their bytes lie."""

from typing import Any, Final

import numpy as np
import pyarrow as pa

from foreshard.errors import ConfigError, CorruptDataError
from foreshard.keys import DatasetKeys
from foreshard.shards.manifest import Manifest
from foreshard.shards.repository import LayoutRef
from foreshard.splits import split_code
from foreshard.storage import ObjectStore

PREFETCH_SCHEMA: Final = pa.schema(
    [
        pa.field("order", pa.int32(), nullable=False),
        pa.field("chunk", pa.int32(), nullable=False),
        pa.field("probability", pa.float32(), nullable=False),
        pa.field("expected", pa.float32(), nullable=False),
        pa.field("first_phase", pa.int16(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("end", pa.int64(), nullable=False),
        pa.field("pinned", pa.bool_(), nullable=False),
    ]
)
"""One row per train chunk of the node, most wanted first; `pinned` rows fit the node's budget together."""


def build_prefetch(manifest: Manifest, forecast: pa.Table, node: int, budget: int) -> pa.Table:
    """Rank the chunks of one node by expected use per byte.

    Args:
        manifest: the layout.
        forecast: rows of `FORECAST_SCHEMA` for the layout's chunks.
        node: the node's index in the manifest.
        budget: bytes the node has for chunks; the best chunks that fit it are marked as pinned.

    Returns:
        Rows of `PREFETCH_SCHEMA`.
    """
    if not 0 <= node < len(manifest.header.nodes):
        raise ConfigError(f"node {node} is not one of the layout's {len(manifest.header.nodes)} nodes")
    chunks = forecast.column("chunk").to_numpy()
    mine = (manifest.nodes[chunks] == node) & (manifest.splits[chunks] == split_code("train"))
    rows = forecast.filter(pa.array(mine))
    chunks = chunks[mine]
    nbytes = manifest.nbytes[chunks]
    expected = rows.column("expected").to_numpy()
    order = np.lexsort((chunks, -(expected / nbytes)))
    chunks, nbytes = chunks[order], nbytes[order]
    # Every chunk is probably read at least once per epoch; what memory should hold is what is read most per byte.
    pinned = (np.cumsum(nbytes) <= budget) & (expected[order] > 0)
    keys = np.array([shard.key for shard in manifest.shards], object)
    columns: dict[str, Any] = {
        "order": np.arange(len(chunks), dtype=np.int32),
        "chunk": chunks.astype(np.int32),
        "probability": rows.column("probability").to_numpy()[order].astype(np.float32),
        "expected": expected[order].astype(np.float32),
        "first_phase": rows.column("first_phase").to_numpy()[order].astype(np.int16),
        "shard": pa.array(keys[manifest.shard_of[chunks]], pa.string()),
        "start": manifest.starts[chunks],
        "end": manifest.ends[chunks],
        "pinned": pinned,
    }
    return pa.table(columns, schema=PREFETCH_SCHEMA)


def prefetch_key(keys: DatasetKeys, ref: LayoutRef, node_name: str) -> str:
    """Return the object key of a node's prefetch manifest."""
    return keys.layout(ref.generation, ref.plan_digest, f"prefetch/{node_name}.arrow")


def write_prefetch(store: ObjectStore, keys: DatasetKeys, ref: LayoutRef, node_name: str, table: pa.Table) -> str:
    """Write a node's prefetch manifest and return its key; it may be replaced, as it only advises."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, PREFETCH_SCHEMA) as writer:
        writer.write_table(table)
    key = prefetch_key(keys, ref, node_name)
    store.put(key, sink.getvalue().to_pybytes())
    return key


def read_prefetch(store: ObjectStore, keys: DatasetKeys, ref: LayoutRef, node_name: str) -> pa.Table:
    """Read a node's prefetch manifest.

    Raises:
        ObjectNotFoundError: the layout has none for this node.
        CorruptDataError: the object is not a prefetch manifest.
    """
    key = prefetch_key(keys, ref, node_name)
    raw = store.get(key)
    try:
        table = pa.ipc.open_file(pa.BufferReader(raw)).read_all()
    except pa.ArrowInvalid as error:
        raise CorruptDataError(f"prefetch manifest {key!r} in {store.url} is not readable: {error}") from error
    if table.schema != PREFETCH_SCHEMA:
        raise CorruptDataError(f"prefetch manifest {key!r} in {store.url} has the columns {table.schema.names}")
    return table
