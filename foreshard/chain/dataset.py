"""Stages that depend on the source and the configuration alone: the profile and the recipe."""

from typing import Final

from foreshard.chain.context import Context
from foreshard.chain.result import MAX_TABLE_ROWS, StageResult, digest_of, scalar
from foreshard.chain.work import encode_json
from foreshard.consistency.plots import correlation_plot
from foreshard.consistency.profile import profile_dataset
from foreshard.seeding import ALGORITHM_VERSION
from foreshard.splits import SPLITS

PROFILE_ROWS: Final = 100_000
"""Rows that a profile looks at: quantiles and correlations of a larger source do not move beyond this."""


def profile_stage(context: Context) -> StageResult:
    """Take a snapshot of the source, fix its splits, and describe its columns."""
    snapshot = context.snapshot
    sample = context.model_rows(snapshot.fingerprint, PROFILE_ROWS)
    profile = profile_dataset(sample, context.config.dataset.target, rows=snapshot.rows)
    raw = profile.to_json().encode()
    context.store.put(context.keys.profile(snapshot.fingerprint), raw)
    codes = context.repository.load_splits(snapshot.fingerprint)
    return StageResult(
        data_version=digest_of(snapshot.fingerprint, raw),
        metadata={
            "rows": snapshot.rows,
            "bytes": sum(file.size for file in snapshot.files),
            "files": len(snapshot.files),
            "fingerprint": snapshot.fingerprint,
            "source": snapshot.url,
            **{f"rows_{name}": int((codes == code).sum()) for code, name in enumerate(SPLITS)},
            **{f"feature_{name}": float(value) for name, value in profile.features.items()},
        },
        tables={
            "columns": [
                {name: scalar(value) for name, value in column.items()} for column in profile.columns[:MAX_TABLE_ROWS]
            ]
        },
        plots={"correlations": correlation_plot(profile)},
    )


def recipe_stage(context: Context) -> StageResult:
    """Write what a re-shard aims for: weights, root seed, bounds and cluster. Its data version is a digest."""
    config = context.config
    raw = encode_json(
        {
            "algorithm_version": ALGORITHM_VERSION,
            "cache_fraction": config.loader.cache_fraction,
            "cluster": config.cluster.model_dump(mode="json"),
            "dataset": config.dataset.name,
            "features": config.dataset.features,
            "phases": config.loader.phases,
            "reshard": config.reshard.model_dump(mode="json"),
            "seed": config.dataset.seed,
            "target": config.dataset.target,
        }
    )
    digest = digest_of(raw)
    context.store.create(context.keys.recipe(digest), raw)
    return StageResult(
        data_version=digest,
        metadata={
            "digest": digest,
            "seed": config.dataset.seed,
            **{key: str(value) for key, value in config.reshard.model_dump(mode="json").items()},
        },
        tables={"nodes": [node.model_dump(mode="json") for node in config.cluster.nodes]},
    )
