"""Stages that read what training jobs reported: validated events, and a forecast of what comes next."""

from dataclasses import asdict

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.access.history import DrawCounter, History, SampleCounter
from foreshard.access.ingest import stream_logs
from foreshard.access.schema import EVENT_SCHEMA, SAMPLE_SCHEMA, LogKind
from foreshard.chain.context import Context, Inputs
from foreshard.chain.policy import (
    POLICY,
    STAGE_EVENTS,
    STAGE_FORECAST,
    policy_document,
    policy_figures,
    policy_of_events,
    regime_rows,
)
from foreshard.chain.result import StageResult, digest_of, head
from foreshard.chain.tables import StoredTable, TableWriter
from foreshard.forecast.heat import sample_heat
from foreshard.forecast.plots import forecast_plots
from foreshard.forecast.ranking import FORECAST_SCHEMA, ForecastResult, forecast_chunks
from foreshard.splits import split_code


def events_stage(context: Context, generation: str) -> StageResult:
    """Gather the window's logs, validate them, and write them compacted; problems are written beside them.

    Nothing is raised for a malformed log: `check_events` decides, so that what is wrong can be looked at. Of the logs
    no more is held at a time than one object and a row group.
    """
    inputs = context.inputs(generation)
    work = context.work(generation)
    with TableWriter(EVENT_SCHEMA) as events, TableWriter(SAMPLE_SCHEMA) as samples:
        misses = 0

        def take(kind: LogKind, table: pa.Table) -> None:
            nonlocal misses
            (events if kind == "events" else samples).add(table)
            misses += _misses(table) if kind == "events" else 0

        epochs = range(0) if inputs.bootstrap else inputs.epochs
        found = stream_logs(context.store, context.keys, inputs.run, epochs, take)
        written = work.put_rows("events", events), work.put_rows("samples", samples)
    problems = [asdict(problem) for problem in found.problems]
    markers = [
        {"epoch": m.epoch, "generation": m.generation, "steps": m.steps, "draws": m.draws, "world_size": m.world_size}
        for m in found.markers
    ]
    report = {"problems": problems, "markers": markers, "fingerprint": inputs.fingerprint}
    return StageResult(
        data_version=digest_of(*written, work.put_json("events", report)),
        metadata={
            "run": inputs.run,
            "epochs": len(inputs.epochs),
            "first_epoch": inputs.epochs.start,
            "touches": events.rows,
            "misses": misses,
            "draws": sum(m.draws for m in found.markers),
            "problems": len(problems),
            "snapshot": inputs.fingerprint,
        },
        tables={"markers": markers, "problems": problems[:50]},
    )


def _misses(events: pa.Table) -> int:
    return events.num_rows - int(np.count_nonzero(events.column("hit").to_numpy(zero_copy_only=False)))


def forecast_stage(context: Context, generation: str) -> StageResult:
    """Predict the next epoch's draws of every sample, and rank the parent's chunks by what they will be asked for.

    Writes `heat` (float32 per sample), `forecast` (ranked chunks of the layout read so far), the forecast's error, and
    `policy`: the regime of the log, and what memory should do for the layout read so far, with its evidence.
    A first layout has no log to learn from: every training sample is expected once.
    """
    inputs = context.inputs(generation)
    splits = context.repository.load_splits(inputs.fingerprint)
    train = splits == split_code("train")
    if inputs.bootstrap:
        return _uniform_forecast(context, generation, train)
    work = context.work(generation)
    markers = work.json("events", stage=STAGE_EVENTS)["markers"]
    chunk_of, count = _parent_chunks(context, inputs, len(train))
    chunks = np.unique(chunk_of[train]).astype(np.int32)
    per_sample = SampleCounter(len(train), list(inputs.epochs))
    per_chunk = DrawCounter(chunk_of, count, context.config.loader.phases)
    _count(work.rows("samples", stage=STAGE_EVENTS), per_sample, per_chunk)
    heat = expected_draws(per_sample.counts(), train, float(markers[-1]["draws"]))
    history = select_chunks(per_chunk.history(), chunks)
    result = _forecast(context, history)
    table = _rename_chunks(result.table, chunks)
    tested = result.backtest
    summary = tested.summary() if tested is not None else []
    events = work.rows("events", stage=STAGE_EVENTS)
    regime, choice = policy_of_events(context, inputs, events, history, chunks, result.chosen)
    policy = policy_document(regime, choice, inputs.parent)
    figures = {
        "model": result.chosen,
        "error": float(result.error),
        "regret": tested.regret if tested is not None else None,
        "calibration_error": tested.ece if tested is not None else None,
        "steps": int(markers[-1]["steps"]),
        "draws": float(heat.sum()),
    }
    version = digest_of(
        work.put_table("forecast", table),
        work.put_table("heat", pa.table({"heat": pa.array(heat)})),
        work.put_json("forecast", {**figures, "backtest": summary}),
        work.put_json(POLICY, policy),
        work.put_table("policy_evidence", choice.evidence) if choice else "",
    )
    return StageResult(
        data_version=version,
        metadata={
            **figures,
            "chunks": table.num_rows,
            "windows": len(history.epochs),
            **heat_figures(heat[train]),
            **policy_figures(policy),
        },
        tables={
            "backtest": summary[:50],
            "hottest": head(table, 20),
            "policies": choice.summary() if choice else [],
            "regime_evidence": regime_rows(policy),
        },
        plots=forecast_plots(
            result, history, names=chunks.tolist(), cache_fraction=context.config.loader.cache_fraction
        ),
    )


def _uniform_forecast(context: Context, generation: str, train: NDArray[np.bool_]) -> StageResult:
    heat = train.astype(np.float32)
    draws = int(train.sum())
    steps = -(-draws // context.config.loader.global_batch)
    work = context.work(generation)
    figures = {"model": "uniform", "error": 0.0, "steps": max(1, steps), "draws": float(draws)}
    version = digest_of(work.put_table("heat", pa.table({"heat": pa.array(heat)})), work.put_json("forecast", figures))
    return StageResult(data_version=version, metadata={**figures, "chunks": 0, **heat_figures(heat[train])})


def expected_draws(counts: NDArray[np.float32], train: NDArray[np.bool_], draws: float) -> NDArray[np.float32]:
    """Return the draws expected of every sample in the next epoch: float32, shape (n,), zero outside the train split.

    Args:
        counts: shape (epochs, n), draws of every sample in each epoch of the window.
        train: shape (n,), which samples are ever drawn.
        draws: samples drawn in the last epoch, which are expected again.
    """
    heat = np.zeros(len(train), np.float32)
    heat[train] = sample_heat(counts[:, train], draws=draws)
    return heat


def heat_figures(heat: NDArray[np.float32]) -> dict[str, float]:
    """Return how unevenly draws are spread: shares of the hottest 1 % and 10 % of samples in all draws."""
    total = float(heat.sum())
    descending = np.sort(heat)[::-1]
    shares = {1: max(1, len(heat) // 100), 10: max(1, len(heat) // 10)}
    return {
        f"heat_share_top_{p}_percent": float(descending[:k].sum()) / total if total else 0.0 for p, k in shares.items()
    }


def _parent_chunks(context: Context, inputs: Inputs, n: int) -> tuple[NDArray[np.int32], int]:
    """Chunk of every sample in the parent, shape (n,), and how many chunks it has."""
    if inputs.parent is None:
        chunk_of = (np.arange(n) // context.config.reshard.max_chunk_rows).astype(np.int32)
        return chunk_of, int(chunk_of[-1]) + 1
    manifest = context.repository.open(inputs.parent)
    return manifest.chunk_of, len(manifest.rows)


def _count(samples: StoredTable, *counters: DrawCounter | SampleCounter) -> None:
    """Read the window's draws once, for all that count them."""
    for part in samples.groups():
        for counter in counters:
            counter.add(part)


def select_chunks(history: History, chunks: NDArray[np.int32]) -> History:
    """Return the history of some chunks; column i is then chunk `chunks[i]`."""
    return History(history.counts[:, chunks], history.epochs, history.phases, history.phases_per_epoch)


def _rename_chunks(table: pa.Table, chunks: NDArray[np.int32]) -> pa.Table:
    position = table.schema.get_field_index("chunk")
    renamed = pa.array(chunks[table.column("chunk").to_numpy()], pa.int32())
    return table.set_column(position, table.schema.field(position), renamed)


def _forecast(context: Context, history: History) -> ForecastResult:
    return forecast_chunks(history, cache_fraction=context.config.loader.cache_fraction)


def rank_layout(
    context: Context,
    inputs: Inputs,
    chunk_of: NDArray[np.int32],
    splits: NDArray[np.uint8],
    heat: NDArray[np.float32],
) -> tuple[pa.Table, NDArray[np.float64]]:
    """Project the window's log on a new layout and rank its chunks.

    Args:
        context: the shared context.
        inputs: what the generation is pinned to.
        chunk_of: shape (n,), chunk of every sample in the new layout.
        splits: shape (n,).
        heat: shape (n,), expected draws.

    Returns:
        The forecast table of the training chunks, and how often each chunk was asked for in the window (all chunks).
    """
    count = int(chunk_of.max()) + 1
    train = splits == split_code("train")
    chunks = np.unique(chunk_of[train]).astype(np.int32)
    if inputs.bootstrap:
        expected = np.bincount(chunk_of, weights=heat, minlength=count)[chunks].astype(np.float64)
        table = uniform_ranking(expected, context.config.loader.phases)
        return _rename_chunks(table, chunks), np.zeros(count)
    work = context.work(inputs.generation)
    counter = DrawCounter(chunk_of, count, context.config.loader.phases)
    _count(work.rows("samples", stage=STAGE_EVENTS), counter)
    history = counter.history()
    model = work.json("forecast", stage=STAGE_FORECAST)["model"]
    result = forecast_chunks(
        select_chunks(history, chunks), cache_fraction=context.config.loader.cache_fraction, names=(model,)
    )
    return _rename_chunks(result.table, chunks), history.counts.sum(axis=0)


def uniform_ranking(expected: NDArray[np.float64], phases: int) -> pa.Table:
    """Rank chunks before any log exists: draws come as a Poisson process at the expected rate, even over an epoch."""
    order = np.argsort(-expected, kind="stable")
    rate = expected[order]
    spread = 1.96 * np.sqrt(rate)
    columns = {
        "chunk": order,
        "expected": rate,
        "probability": -np.expm1(-rate),
        "next_probability": -np.expm1(-rate / phases),
        "lower": np.maximum(0.0, rate - spread),
        "upper": rate + spread,
        "first_phase": np.zeros(len(order), np.int16),
        "rank": np.arange(len(order)),
        "model": ["uniform"] * len(order),
    }
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in FORECAST_SCHEMA})
