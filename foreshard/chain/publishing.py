"""Stages that write and publish: shards, prefetch manifests, and the pointer that new readers follow."""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.chain.context import Context
from foreshard.chain.planning import STAGE_PLAN, layout_ref
from foreshard.chain.policy import advice_for
from foreshard.chain.result import StageResult, digest_of
from foreshard.prefetch.manifest import build_prefetch, write_prefetch
from foreshard.shards.assemble import Figures
from foreshard.shards.manifest import Manifest
from foreshard.source import SourceReader

STAGE_SHARDS: Final = "shards/objects"


def shards_stage(context: Context, generation: str, progress: Callable[[int, int], None] | None = None) -> StageResult:
    """Write the shards of the plan and commit the layout; what is in the store already is not written again."""
    ref = layout_ref(context, generation)
    plan = context.repository.load_plan(ref)
    reader = SourceReader(context.repository.load_snapshot(plan.fingerprint))
    counts, scores = _chunk_figures(context, generation, plan.chunks.num_rows)
    done = context.repository.make(plan, reader, figures=Figures(counts, scores), progress=progress)
    header = done.manifest.header
    return StageResult(
        data_version=digest_of(header.plan_digest, *sorted(shard.sha256 for shard in done.manifest.shards)),
        metadata={
            "rows": header.rows,
            "chunks": len(done.manifest.rows),
            "shards": header.shards,
            "bytes": int(done.manifest.nbytes.sum()),
            "written_bytes": done.written_bytes,
            "reused_bytes": done.reused_bytes,
            "written_shards": done.written_shards,
            "reused_shards": done.reused_shards,
            "inherited_shards": plan.inherited.shards,
            "retired_rows": int(plan.inherited.retired_rows.sum()),
            "seconds": done.seconds,
            "written_mb_per_s": done.written_bytes / 1e6 / done.seconds,
            "strategy": header.strategy,
            "plan_digest": header.plan_digest,
        },
        tables={"nodes": _node_rows(done.manifest)},
    )


def _chunk_figures(context: Context, generation: str, chunks: int) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Draws of each chunk in the window, and its predicted probability to be asked for in the next epoch."""
    work = context.work(generation)
    counts = work.table("counts", stage=STAGE_PLAN).column("count").to_numpy().astype(np.float64)
    ranked = work.table("ranked", stage=STAGE_PLAN)
    scores = np.zeros(chunks, np.float32)
    scores[ranked.column("chunk").to_numpy()] = ranked.column("probability").to_numpy()
    return counts, scores


def _node_rows(manifest: Manifest) -> list[dict[str, str | int]]:
    names = manifest.header.nodes
    sizes = {
        "chunks": np.bincount(manifest.nodes, minlength=len(names)),
        "rows": np.bincount(manifest.nodes, weights=manifest.rows, minlength=len(names)),
        "bytes": np.bincount(manifest.nodes, weights=manifest.nbytes, minlength=len(names)),
    }
    return [{"node": name, **{k: int(v[i]) for k, v in sizes.items()}} for i, name in enumerate(names)][:50]


def node_budget(context: Context, manifest: Manifest, node: int) -> int:
    """Return the bytes that a node keeps for prefetched chunks: its share of `cache_fraction`, within its memory."""
    mine = int(manifest.nbytes[manifest.nodes == node].sum())
    return min(context.config.cluster.nodes[node].memory, int(mine * context.config.loader.cache_fraction))


def prefetch_stage(context: Context, generation: str) -> StageResult:
    """Write for each node which chunks to have in memory, in which order, with probability and byte range.

    How much of that is pinned follows from the policy that the do-no-harm gate chose.
    """
    manifest = context.repository.open(layout_ref(context, generation))
    ranked = context.work(generation).table("ranked", stage=STAGE_PLAN)
    advice, reason = advice_for(context, context.inputs(generation), manifest)
    rows: list[dict[str, str | int | float]] = []
    written: list[str] = []
    for node, name in enumerate(manifest.header.nodes):
        budget = node_budget(context, manifest, node)
        table = build_prefetch(manifest, ranked, node, budget, advice)
        with context.repository.lease_writer(generation):
            written.append(write_prefetch(context.store, context.keys, manifest.ref, name, table))
        pinned = int(np.count_nonzero(table.column("pinned").to_numpy(zero_copy_only=False)))
        rows.append({"node": name, "entries": table.num_rows, "pinned": pinned, "budget": budget})
    version = digest_of(manifest.header.plan_digest, *(context.store.get(key) for key in written))
    return StageResult(
        data_version=version,
        metadata={
            "nodes": len(rows),
            "entries": sum(int(row["entries"]) for row in rows),
            "pinned": sum(int(row["pinned"]) for row in rows),
            "budget": sum(int(row["budget"]) for row in rows),
            "policy": advice.policy,
            "pin_fraction": advice.pin_fraction,
            "regime": advice.regime,
            "policy_reason": reason,
        },
        tables={"nodes": rows[:50]},
    )


def publish_stage(context: Context, generation: str) -> StageResult:
    """Point new readers at the layout; an older generation of the same run never replaces a newer one."""
    published = context.repository.publish(layout_ref(context, generation))
    current = published.current
    return StageResult(
        data_version=digest_of(current.ref.generation, current.ref.plan_digest),
        metadata={
            "current": current.ref.generation,
            "plan_digest": current.ref.plan_digest,
            "fence": current.fence,
            "changed": published.changed,
            "reason": published.reason,
        },
    )
