"""What `foreshard inspect` tells of a layout, computed from its manifest and plan; nothing is printed here."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.errors import ConfigError
from foreshard.layout.plan import Plan
from foreshard.shards.manifest import Manifest
from foreshard.shards.metadata import consistency_origins
from foreshard.splits import SPLITS


def layout_facts(manifest: Manifest, plan: Plan) -> dict[str, Any]:
    """Return a layout as JSON values.

    Args:
        manifest: the layout.
        plan: what it was made from.
    """
    header = manifest.header
    return {
        "layout": str(manifest.ref),
        "dataset": header.dataset,
        "parent": str(header.parent) if header.parent else None,
        "snapshot": header.fingerprint,
        "strategy": header.strategy,
        "root_seed": header.root_seed,
        "algorithm_version": header.algorithm_version,
        "compression": plan.compression,
        "rows": header.rows,
        "chunks": header.chunks,
        "shards": header.shards,
        "bytes": int(manifest.nbytes.sum()),
        "stored_bytes": int(manifest.shard_sizes.sum()),
        "columns": {field.name: str(field.type) for field in manifest.schema},
        "versions": dict(header.versions),
        "decision": plan.decision,
        "reason": plan.reason,
        "inherited": _inherited(manifest, plan),
        "nodes": [{"name": name, **_group(manifest, manifest.nodes == node)} for node, name in enumerate(header.nodes)],
        "splits": [{"name": name, **_group(manifest, manifest.splits == code)} for code, name in enumerate(SPLITS)],
    }


def chunk_facts(manifest: Manifest, consistency: pa.RecordBatch, chunk: int) -> dict[str, Any]:
    """Return one chunk's row of the manifest, and how it can be made again.

    Args:
        manifest: the layout.
        consistency: its consistency metadata.
        chunk: its number.

    Raises:
        ConfigError: there is no such chunk.
    """
    _check(chunk, len(manifest), "chunk", manifest)
    row: dict[str, Any] = {name: consistency.column(name)[chunk].as_py() for name in consistency.schema.names}
    shard = int(manifest.shard_of[chunk])
    return {
        **_chunk_row(manifest, chunk),
        "shard": shard,
        "shard_key": manifest.shards[shard].key,
        "group": int(manifest.groups[chunk]),
        "access_count": float(manifest.access_counts[chunk]),
        "prediction_score": float(manifest.scores[chunk]),
        "content_id": row["content_id"].hex(),
        "seed": row["seed"],
        "prng_state": json.loads(row["prng_state"]),
        "algorithm_version": row["algorithm_version"],
        "strategy": row["strategy"],
        "origin": consistency_origins(consistency)[row["origin"]].to_json(),
        "order_sha256": row["order_sha256"].hex(),
    }


def shard_facts(manifest: Manifest, shard: int) -> dict[str, Any]:
    """Return one shard object and its chunks in stored order.

    Args:
        manifest: the layout.
        shard: its number.

    Raises:
        ConfigError: there is no such shard.
    """
    _check(shard, len(manifest.shard_sizes), "shard", manifest)
    chunks = np.flatnonzero(manifest.shard_of == shard)
    chunks = chunks[np.argsort(manifest.starts[chunks], kind="stable")]
    ref = manifest.shards[shard]
    return {
        "shard": shard,
        "key": ref.key,
        "sha256": ref.sha256,
        "size": ref.size,
        "chunk_bytes": int(manifest.nbytes[chunks].sum()),
        "chunks": [_chunk_row(manifest, chunk) for chunk in chunks.tolist()],
    }


def _chunk_row(manifest: Manifest, chunk: int) -> dict[str, Any]:
    return {
        "chunk": chunk,
        "start": int(manifest.starts[chunk]),
        "end": int(manifest.ends[chunk]),
        "rows": int(manifest.rows[chunk]),
        "node": manifest.header.nodes[manifest.nodes[chunk]],
        "split": SPLITS[manifest.splits[chunk]],
        "checksum": f"{manifest.checksums[chunk]:016x}",
    }


def _check(number: int, count: int, what: str, manifest: Manifest) -> None:
    if not 0 <= number < count:
        raise ConfigError(
            f"{what} {number} is not one of the {count} {what}s of layout {manifest.ref}: 0 to {count - 1}"
        )


def _inherited(manifest: Manifest, plan: Plan) -> dict[str, int]:
    """Return what was taken over, and what of it is no chunk of this layout any more.

    `retired_bytes` are those of shard objects with retired chunks that are in no chunk of the layout: the retired
    chunks and some hundred bytes of the file's own.
    """
    inherited, count = plan.inherited, plan.inherited.shards
    live = np.bincount(manifest.shard_of, manifest.nbytes, len(manifest.shard_sizes)).astype(np.int64)
    with_retired = np.unique(inherited.retired_shard)
    return {
        "shards": count,
        "bytes": int(manifest.shard_sizes[:count].sum()),
        "retired_chunks": len(inherited.retired_rows),
        "retired_rows": int(inherited.retired_rows.sum()),
        "retired_bytes": int((manifest.shard_sizes[with_retired] - live[with_retired]).sum()),
    }


def _group(manifest: Manifest, members: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the sizes of some chunks; of the tenths with most and fewest draws per row if any were counted."""
    rows, counts = manifest.rows[members].astype(np.int64), manifest.access_counts[members]
    found: dict[str, Any] = {
        "chunks": len(rows),
        "rows": int(rows.sum()),
        "bytes": int(manifest.nbytes[members].sum()),
        "mean_rows": float(rows.mean()) if len(rows) else None,
        "min_rows": int(rows.min()) if len(rows) else None,
        "max_rows": int(rows.max()) if len(rows) else None,
        "hottest_rows": None,
        "coldest_rows": None,
    }
    if counts.any():
        coldest_first = np.argsort(counts / np.maximum(rows, 1), kind="stable")
        tenth = -(-len(rows) // 10)
        found["coldest_rows"] = float(rows[coldest_first[:tenth]].mean())
        found["hottest_rows"] = float(rows[coldest_first[-tenth:]].mean())
    return found
