"""The prefetch manifest of a node: which chunks to have in memory, in which order, why, and where their bytes lie."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from foreshard.errors import ConfigError, CorruptDataError
from foreshard.keys import DatasetKeys
from foreshard.shards.manifest import Manifest
from foreshard.shards.repository import LayoutRef
from foreshard.simulate.caches import KEEP
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
"""One row per train chunk of the node, most wanted first; `pinned` rows fit the node's budget for them together."""


@dataclass(frozen=True)
class Advice:
    """How far the ranking of a prefetch manifest is to be trusted; stored in its schema's metadata.

    Attributes:
        policy: what did best in the newest windows, see `foreshard.forecast.gate`.
        pin_fraction: share of the node's budget that is pinned, in [0, 1].
        regime: kind of access that the log shows.
    """

    policy: str
    pin_fraction: float
    regime: str

    @property
    def forecast_decides(self) -> bool:
        """Whether memory should hold what is forecast, rather than what it holds anyway."""
        return self.pin_fraction > 0 and self.policy != KEEP

    def to_metadata(self) -> dict[bytes, bytes]:
        """Return the advice as schema metadata."""
        fields = {"policy": self.policy, "pin_fraction": repr(self.pin_fraction), "regime": self.regime}
        return {name.encode(): value.encode() for name, value in fields.items()}


PIN_ALL: Final = Advice("pin", 1.0, "unknown")
"""What a manifest without metadata means."""


def advice_of(table: pa.Table) -> Advice:
    """Return the advice of a prefetch manifest.

    Raises:
        CorruptDataError: its metadata does not hold one.
    """
    metadata = table.schema.metadata or {}
    if b"policy" not in metadata:
        return PIN_ALL
    try:
        fraction = float(metadata[b"pin_fraction"])
        advice = Advice(metadata[b"policy"].decode(), fraction, metadata[b"regime"].decode())
    except (KeyError, ValueError) as error:
        raise CorruptDataError(f"a prefetch manifest has the metadata {metadata}: {error!r}; make it again") from error
    if not 0 <= fraction <= 1:
        raise CorruptDataError(
            f"a prefetch manifest pins {fraction} of its budget, not a share in [0, 1]; make it again"
        )
    return advice


def build_prefetch(
    manifest: Manifest, forecast: pa.Table, node: int, budget: int, advice: Advice = PIN_ALL
) -> pa.Table:
    """Rank the chunks of one node by expected use per byte.

    Args:
        manifest: the layout.
        forecast: rows of `FORECAST_SCHEMA` for the layout's chunks.
        node: the node's index in the manifest.
        budget: bytes the node has for chunks; the best chunks that fit the share of it that `advice` names are marked
            as pinned.
        advice: stored with the table; left out, everything is pinned that fits.

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
    pinned = (np.cumsum(nbytes) <= int(advice.pin_fraction * budget)) & (expected[order] > 0)
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
    schema = PREFETCH_SCHEMA if advice == PIN_ALL else PREFETCH_SCHEMA.with_metadata(advice.to_metadata())
    return pa.table(columns, schema=schema)


def prefetch_key(keys: DatasetKeys, ref: LayoutRef, node_name: str) -> str:
    """Return the object key of a node's prefetch manifest."""
    return keys.layout(ref.generation, ref.plan_digest, f"prefetch/{node_name}.arrow")


def write_prefetch(store: ObjectStore, keys: DatasetKeys, ref: LayoutRef, node_name: str, table: pa.Table) -> str:
    """Write a node's prefetch manifest and return its key; it may be replaced, as it only advises."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
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
