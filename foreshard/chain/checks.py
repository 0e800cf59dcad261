"""What must hold before the next stage may build on a stage's output; each check answers, none raises for bad data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa

from foreshard.access.schema import EVENT_SCHEMA, SAMPLE_SCHEMA
from foreshard.chain.access import STAGE_EVENTS, STAGE_FORECAST
from foreshard.chain.context import Context
from foreshard.chain.planning import STAGE_SCORES, layout_ref, load_heat, load_plan
from foreshard.chain.result import Scalar
from foreshard.errors import CorruptDataError, PlanError, StorageError
from foreshard.layout.check import check_plan
from foreshard.prefetch.manifest import read_prefetch
from foreshard.splits import split_code
from foreshard.strategies import get_strategies

SAMPLED_CHUNKS: Final = 32
"""Chunks read back after a materialisation; `Repository.verify` reads them all."""


@dataclass(frozen=True)
class CheckOutcome:
    """Whether a check passed, why not, and the figures it looked at."""

    passed: bool
    description: str
    metadata: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])


def _outcome(problems: list[str], passed: str, **metadata: Scalar) -> CheckOutcome:
    return CheckOutcome(not problems, "; ".join(problems[:5]) if problems else passed, metadata)


def check_events(context: Context, generation: str) -> CheckOutcome:
    """The window's logs are complete, have the schema, and their draws add up to what the markers say."""
    inputs = context.inputs(generation)
    work = context.work(generation)
    report = work.json("events", stage=STAGE_EVENTS)
    problems = [f"{p['key']}: {p['what']}" for p in report["problems"] if p["severity"] == "error"]
    samples = work.rows("samples", stage=STAGE_EVENTS)
    tables = (work.rows("events", stage=STAGE_EVENTS), EVENT_SCHEMA), (samples, SAMPLE_SCHEMA)
    problems += [
        f"table {table.key!r} has the columns {table.schema.names}, expected {schema.names}"
        for table, schema in tables
        if table.schema.names != schema.names
    ]
    found = [int(marker["epoch"]) for marker in report["markers"]]
    if found != list(inputs.epochs):
        problems.append(f"epochs {found} are marked as finished, the window is {list(inputs.epochs)}")
    draws = sum(int(marker["draws"]) for marker in report["markers"])
    counts = samples.groups(("count",)) if samples.schema.names == SAMPLE_SCHEMA.names else ()
    counted = sum(int(part.column("count").to_numpy().sum()) for part in counts)
    if counted != draws:
        problems.append(f"the logs hold {counted} draws, the markers report {draws}")
    return _outcome(problems, f"{len(found)} epochs, {draws} draws", errors=len(problems), draws=draws)


def check_forecast(context: Context, generation: str) -> CheckOutcome:
    """Expected draws are finite, not negative, somewhere positive, and zero outside the train split."""
    inputs = context.inputs(generation)
    heat = load_heat(context, generation)
    splits = context.repository.load_splits(inputs.fingerprint)
    problems: list[str] = []
    if len(heat) != len(splits):
        return _outcome([f"{len(heat)} expected draws for {len(splits)} samples"], "")
    if not np.isfinite(heat).all() or (heat < 0).any():
        problems.append(f"{int((~np.isfinite(heat) | (heat < 0)).sum())} samples have no finite expected draws >= 0")
    if not heat.any():
        problems.append("no sample is expected to be drawn")
    if heat[splits != split_code("train")].any():
        problems.append("samples outside the train split are expected to be drawn")
    if not inputs.bootstrap:
        problems += _ranking_problems(context.work(generation).table("forecast", stage=STAGE_FORECAST))
    return _outcome(problems, f"{float(heat.sum()):.0f} draws expected", samples=len(heat))


def _ranking_problems(table: pa.Table) -> list[str]:
    problems: list[str] = []
    for name in ("expected", "probability", "next_probability", "lower", "upper"):
        values = table.column(name).to_numpy()
        top = 1.0 if "probability" in name else np.inf
        bad = ~np.isfinite(values) | (values < 0) | (values > top)
        if bad.any():
            problems.append(f"{int(bad.sum())} chunks have a {name} outside [0, {top}], the first is {values[bad][0]}")
    return problems


def check_scores(context: Context, generation: str) -> CheckOutcome:
    """Every candidate strategy has a score in [0, 1] within its interval."""
    table = context.work(generation).table("scores", stage=STAGE_SCORES)
    names = [str(name) for name in table.column("strategy").to_pylist()]
    problems: list[str] = []
    missing = sorted(set(get_strategies(context.config.reshard.strategies)) - set(names))
    if missing:
        problems.append(f"strategies {missing} have no score")
    low, score, high = (table.column(name).to_numpy() for name in ("low", "score", "high"))
    # Written so that NaN fails: every comparison with it is false.
    fine = (low >= 0) & (low <= score) & (score <= high) & (high <= 1)
    problems += [
        f"{name} has the score {s} in [{lo}, {hi}]"
        for name, ok, s, lo, hi in zip(names, fine, score, low, high, strict=True)
        if not ok
    ]
    return _outcome(problems, f"{len(names)} strategies scored", strategies=len(names))


def check_cover(context: Context, generation: str) -> CheckOutcome:
    """The plan holds every sample exactly once, within its bounds, its splits and the nodes' memory."""
    try:
        plan = load_plan(context, generation)
        splits = context.repository.load_splits(plan.fingerprint)
        check_plan(plan, splits, context.config.cluster, context.config.reshard)
    except (PlanError, CorruptDataError) as error:
        return CheckOutcome(passed=False, description=str(error))
    return CheckOutcome(
        passed=True, description=f"{len(plan.sample_ids)} samples, each once", metadata={"chunks": plan.chunks.num_rows}
    )


def check_shards(context: Context, generation: str) -> CheckOutcome:
    """Every shard is there in full, and chunks spread over all of them match their checksums and row counts."""
    try:
        manifest = context.repository.open(layout_ref(context, generation))
    except (StorageError, CorruptDataError) as error:
        return CheckOutcome(passed=False, description=str(error))
    problems: list[str] = []
    for shard in manifest.shards:
        size = next((m.size for m in context.store.list(shard.key.rpartition("/")[0]) if m.key == shard.key), None)
        if size != shard.size:
            problems.append(f"shard {shard.key!r} has {size} bytes, the manifest says {shard.size}")
    chunks = np.unique(np.linspace(0, len(manifest.rows) - 1, SAMPLED_CHUNKS).astype(np.int64))
    try:
        batches = context.repository.read_chunks(manifest, chunks)
    except (StorageError, CorruptDataError) as error:
        return _outcome([*problems, str(error)], "")
    for chunk, batch in zip(chunks, batches, strict=True):
        if batch.num_rows != manifest.rows[chunk]:
            problems.append(f"chunk {chunk} holds {batch.num_rows} rows, the manifest says {manifest.rows[chunk]}")
    rows = int(manifest.rows.sum())
    if rows != manifest.header.rows or rows != len(manifest.chunk_of):
        problems.append(f"the chunks hold {rows} rows, the snapshot {manifest.header.rows}")
    return _outcome(problems, f"{len(chunks)} chunks read back", shards=len(manifest.shards), rows=rows)


def check_prefetch(context: Context, generation: str) -> CheckOutcome:
    """Every entry of every node's prefetch manifest names a chunk of the layout by its exact byte range."""
    manifest = context.repository.open(layout_ref(context, generation))
    problems: list[str] = []
    entries = 0
    for name in manifest.header.nodes:
        table = read_prefetch(context.store, context.keys, manifest.ref, name)
        chunk = table.column("chunk").to_numpy()
        entries += len(chunk)
        if len(np.unique(chunk)) != len(chunk) or ((chunk < 0) | (chunk >= len(manifest.rows))).any():
            problems.append(f"node {name}: chunks repeat or are not in the layout")
            continue
        same = (table.column("start").to_numpy() == manifest.starts[chunk]) & (
            table.column("end").to_numpy() == manifest.ends[chunk]
        )
        keys = table.column("shard").to_pylist()
        wrong = [int(c) for c, ok, key in zip(chunk, same, keys, strict=True) if not ok or key != manifest.shard_key(c)]
        if wrong:
            problems.append(
                f"node {name}: chunk {wrong[0]} and {len(wrong) - 1} more have another address in the layout"
            )
    return _outcome(problems, f"{entries} entries", entries=entries)


def check_current(context: Context, generation: str) -> CheckOutcome:
    """The pointer leads to a committed layout, not older than this generation where it is of the same run."""
    current = context.repository.current()
    if current is None:
        return CheckOutcome(
            passed=False, description=f"nothing is published for dataset {context.config.dataset.name!r}"
        )
    try:
        manifest = context.repository.open(current.ref)
    except (StorageError, CorruptDataError) as error:
        return CheckOutcome(passed=False, description=str(error))
    wanted = context.inputs(generation)
    run, _, _ = current.ref.generation.rpartition(".")
    if run == wanted.run and current.ref.generation < generation:
        return CheckOutcome(passed=False, description=f"{current.ref.generation} is published, older than {generation}")
    return CheckOutcome(
        passed=True,
        description=f"{current.ref.generation}, fence {current.fence}",
        metadata={"rows": manifest.header.rows},
    )
