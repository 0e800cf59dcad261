"""Stages that decide: a consistency score for each strategy, and the plan of the new layout."""

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from foreshard.access.schema import EVENT_SCHEMA
from foreshard.chain.access import STAGE_EVENTS, STAGE_FORECAST, rank_layout
from foreshard.chain.context import Context, Inputs
from foreshard.chain.dataset import recipe_stage
from foreshard.chain.measure import load_predictor
from foreshard.chain.result import StageResult, digest_of, head
from foreshard.chain.tables import StoredTable
from foreshard.config import ReshardConfig
from foreshard.consistency.plots import score_plot
from foreshard.consistency.profile import DatasetProfile
from foreshard.consistency.score import score_strategies
from foreshard.errors import ObjectNotFoundError, StorageError
from foreshard.layout.candidates import PlanInputs
from foreshard.layout.check import check_plan
from foreshard.layout.cost import CostModel, fit_cost_model
from foreshard.layout.plan import Plan
from foreshard.layout.planner import make_plan
from foreshard.layout.plots import balance_plot, plan_plot
from foreshard.seeding import derive_seed
from foreshard.shards.repository import LayoutRef
from foreshard.splits import split_code
from foreshard.strategies import get_strategies

STAGE_SCORES: Final = "consistency/scores"
STAGE_PLAN: Final = "layout/plan"
_SLOTS: Final = 16
_MOST_FETCHES: Final = 4_000_000
_REMOTE_LATENCY_S: Final = 5e-3
_LOCAL_LATENCY_S: Final = 1e-4
_LOCAL_BANDWIDTH: Final = 1e9
"""Prices before any fetch was logged: an object store across a network, and a local file in the page cache."""
LEARNER: Final = "logistic"
"""The model family that scores are predicted for."""


def scores_stage(context: Context, generation: str) -> StageResult:
    """Predict, before any row moves, how consistent training would be under each candidate strategy."""
    inputs = context.inputs(generation)
    heat = load_heat(context, generation)
    train = context.repository.load_splits(inputs.fingerprint) == split_code("train")
    sketch = context.sketch(inputs.fingerprint)
    reshard = context.config.reshard
    table = score_strategies(
        load_predictor(context, inputs.fingerprint),
        load_profile(context, inputs.fingerprint),
        sketch.features[train],
        sketch.labels[train],
        get_strategies(reshard.strategies),
        heat=heat[train],
        nodes=len(context.config.cluster.nodes),
        learner=LEARNER,
        chunk_rows=round((reshard.min_chunk_rows * reshard.max_chunk_rows) ** 0.5),
        seed=layout_seed(context, inputs),
    )
    version = context.work(generation).put_table("scores", table)
    return StageResult(
        data_version=version,
        metadata={f"score_{name}": score for name, score in by_strategy(table).items()},
        tables={"scores": head(table)},
        plots={"scores": score_plot(table)},
    )


def by_strategy(table: pa.Table) -> dict[str, float]:
    """Return the score of each strategy from a table of scores."""
    names = [str(name) for name in table.column("strategy").to_pylist()]
    return dict(zip(names, map(float, table.column("score").to_numpy()), strict=True))


def plan_stage(context: Context, generation: str) -> StageResult:
    """Choose strategy, chunk boundaries and nodes, and write the plan and the ranking of its chunks."""
    inputs = context.inputs(generation)
    planned = plan_inputs(context, inputs)
    work = context.work(generation)
    scores = by_strategy(work.table("scores", stage=STAGE_SCORES))
    result = make_plan(planned, scores)
    plan = result.plan
    check_plan(plan, planned.splits, context.config.cluster, context.config.reshard)
    ref = context.repository.save_plan(plan)
    ranked, counts = rank_layout(context, inputs, plan.chunk_of(), planned.splits, planned.heat)
    recipe = recipe_stage(context).data_version
    version = digest_of(
        plan.digest,
        work.put_table("candidates", result.candidates),
        work.put_table("migration", result.migration),
        work.put_table("ranked", ranked),
        work.put_table("counts", pa.table({"count": pa.array(counts)})),
        work.put_json("plan", {"plan_digest": ref.plan_digest, "recipe": recipe}),
    )
    return StageResult(
        data_version=version,
        metadata={
            "decision": plan.decision,
            "reason": plan.reason,
            "strategy": plan.strategy,
            "digest": plan.digest,
            "parent": plan.parent.plan_digest if plan.parent else "",
            "chunks": plan.chunks.num_rows,
            "recipe": recipe,
            "score": scores[plan.strategy],
            "latency_s": planned.cost.latency_s,
            "bandwidth": planned.cost.bandwidth,
            **{f"predicted_{name}": float(value) for name, value in plan.predicted.items()},
        },
        tables={"candidates": head(result.candidates), "migration": head(result.migration)},
        plots={"plan": plan_plot(result), "balance": balance_plot(result)},
    )


def plan_inputs(context: Context, inputs: Inputs) -> PlanInputs:
    """Gather what the optimiser needs from earlier stages.

    Raises:
        StorageError: an earlier stage has not run.
    """
    config = context.config
    forecast = context.work(inputs.generation).json("forecast", stage=STAGE_FORECAST)
    splits = context.repository.load_splits(inputs.fingerprint)
    sketch = context.sketch(inputs.fingerprint)
    row_bytes = bytes_per_row(context, inputs)
    cost = cost_model(context, inputs, row_bytes * int((splits == split_code("train")).sum()))
    return PlanInputs(
        generation=inputs.generation,
        fingerprint=inputs.fingerprint,
        splits=splits,
        labels=sketch.labels,
        features=sketch.features,
        heat=load_heat(context, inputs.generation),
        heat_error=float(forecast["error"]),
        row_bytes=row_bytes,
        steps=int(forecast["steps"]),
        cost=cost,
        cluster=config.cluster,
        reshard=_bounded(config.reshard, cost.memory_bytes / len(config.cluster.nodes), row_bytes),
        root_seed=config.dataset.seed,
        parent=context.repository.load_plan(inputs.parent) if inputs.parent else None,
    )


def cost_model(context: Context, inputs: Inputs, train_bytes: float) -> CostModel:
    """Fit latency and bandwidth to the window's log; memory is what all nodes keep for prefetched chunks."""
    config = context.config
    share = config.loader.cache_fraction * train_bytes / len(config.cluster.nodes)
    events = None if inputs.bootstrap else _fetches(context.work(inputs.generation).rows("events", stage=STAGE_EVENTS))
    remote = config.store.url.startswith("s3:")
    return fit_cost_model(
        events,
        memory_bytes=sum(min(float(node.memory), share) for node in config.cluster.nodes),
        chunk_overhead_s=config.reshard.chunk_overhead,
        default_latency_s=_REMOTE_LATENCY_S if remote else _LOCAL_LATENCY_S,
        default_bandwidth=min(node.bandwidth for node in config.cluster.nodes) if remote else _LOCAL_BANDWIDTH,
    )


def _fetches(events: StoredTable) -> pa.Table:
    """Return the events that are fetches, every k-th where there are very many: what prices are fitted to."""
    every = max(1, events.rows // _MOST_FETCHES)
    columns = ("hit", "bytes", "fetch_us")
    fetches = [EVENT_SCHEMA.empty_table().select(columns)]
    for part in events.groups(columns):
        missed = part.filter(pc.invert(part.column("hit")))
        fetches.append(missed.take(np.arange(0, missed.num_rows, every)))
    return pa.concat_tables(fetches)


def _bounded(reshard: ReshardConfig, memory: float, row_bytes: float) -> ReshardConfig:
    """Keep chunks small against a node's memory: with few slots no cache holds what is hot, whatever it decides."""
    most = int(memory / _SLOTS / row_bytes)
    return reshard.model_copy(
        update={"max_chunk_rows": max(min(reshard.max_chunk_rows, most), 2 * reshard.min_chunk_rows)}
    )


def bytes_per_row(context: Context, inputs: Inputs) -> float:
    """Return the mean size of a stored row in bytes: measured on the parent layout, else on a sample of the source."""
    if inputs.parent is not None:
        manifest = context.repository.open(inputs.parent)
        return float(manifest.nbytes.sum() / manifest.rows.sum())
    sample = context.rows(inputs.fingerprint, 10_000)
    id_bytes = 8
    return sample.nbytes / sample.num_rows + id_bytes


def load_heat(context: Context, generation: str) -> NDArray[np.float32]:
    """Return the expected draws of every sample that the forecast stage wrote."""
    table = context.work(generation).table("heat", stage=STAGE_FORECAST)
    return table.column("heat").combine_chunks().to_numpy().astype(np.float32)


def load_profile(context: Context, fingerprint: str) -> DatasetProfile:
    """Return the profile of a snapshot.

    Raises:
        StorageError: it was not profiled yet.
    """
    key = context.keys.profile(fingerprint)
    try:
        return DatasetProfile.from_json(context.store.get(key))
    except ObjectNotFoundError as error:
        raise StorageError(f"{key!r} is missing in {context.store.url}; materialise dataset/profile first") from error


def layout_seed(context: Context, inputs: Inputs) -> bytes:
    """Return the seed that strategies draw from when they are scored."""
    return derive_seed(purpose="layout", fingerprint=inputs.fingerprint, root=context.config.dataset.seed)


def load_plan(context: Context, generation: str) -> Plan:
    """Return the plan of a generation."""
    return context.repository.load_plan(layout_ref(context, generation))


def layout_ref(context: Context, generation: str) -> LayoutRef:
    """Return the layout that the generation's latest plan leads to.

    Raises:
        StorageError: it has no plan yet.
    """
    return LayoutRef(generation, context.work(generation).json("plan", stage=STAGE_PLAN)["plan_digest"])
