"""The files that a study of a log is written to."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from foreshard.forecast.page import render_page
from foreshard.forecast.pins import pins, pins_table
from foreshard.forecast.plots import LARGE_DPI, forecast_plots
from foreshard.forecast.ranking import FORECAST_SCHEMA
from foreshard.forecast.report import study_sections
from foreshard.forecast.sections import printable
from foreshard.forecast.study import Study

if TYPE_CHECKING:
    from collections.abc import Mapping

RANKED: Final = "ranked.parquet"
PINS: Final = "pins.parquet"
SCORES: Final = "scores.parquet"
POLICY: Final = "policy.json"
LEFT_OUT: Final = "quarantine.jsonl"
IMPORT: Final = "import.json"
PAGE: Final = "report.html"
PLOTS: Final = ("calibration.png", "hit_mass.png", "top_chunks.png")

FILES: Final = frozenset({RANKED, PINS, SCORES, POLICY, LEFT_OUT, IMPORT, PAGE, *PLOTS})
"""Everything that may be in the folder."""

RANKED_SCHEMA: Final = FORECAST_SCHEMA.append(pa.field("object", pa.string()))
"""A forecast, and what the log calls each chunk."""


def ranked_table(study: Study) -> pa.Table:
    """Return the whole ranking, rows of `RANKED_SCHEMA`."""
    table = study.result.table
    names = study.imported.trace.names[table.column("chunk").to_numpy()]
    # Texts of any length: numpy's would all be as wide as the widest.
    column = pa.array([str(name) for name in names.tolist()], pa.string())
    return table.append_column(RANKED_SCHEMA.field("object"), column)


def study_files(study: Study, log: Path, quarantine: Path, *, top: int, plots: bool) -> dict[str, bytes | Path]:
    """Return the files that a study consists of, by name; the same for the same log and options.

    Args:
        study: of the log.
        log: its file or folder, as the report shall call it.
        quarantine: where the records that were left out stand.
        top: objects that the report lists.
        plots: whether to draw.
    """
    pictures: Mapping[str, bytes] = {}
    if plots:
        trace, fraction = study.imported.trace, study.cache_fraction
        names = trace.names.tolist()
        pictures = forecast_plots(
            study.result, study.history, names=names, cache_fraction=fraction, what="objects", dpi=LARGE_DPI
        )
    page = render_page(f"Forecast of {printable(log.name)}", _subtitle(study), study_sections(study, top), pictures)
    files: dict[str, bytes | Path] = {
        RANKED: _parquet(ranked_table(study)),
        POLICY: _json(policy_json(study)),
        IMPORT: _json(import_json(study)),
        LEFT_OUT: quarantine,
        PAGE: page.encode(),
        **{f"{name}.png": raw for name, raw in pictures.items()},
    }
    if pins(study):
        files[PINS] = _parquet(pins_table(study))
    if study.result.backtest is not None:
        files[SCORES] = _parquet(study.result.backtest.scores)
    return files


def study_json(study: Study, top: int) -> dict[str, Any]:
    """Return a study as JSON values, with the first objects of its ranking."""
    tested = study.result.backtest
    return {
        "log": import_json(study),
        **policy_json(study),
        "backtest": tested.summary() if tested is not None else [],
        "ranking": ranked_table(study).slice(0, top).to_pylist(),
    }


def import_json(study: Study) -> dict[str, Any]:
    """Return what was read and what was left out."""
    report, trace = study.imported.report, study.imported.trace
    return {
        "format": report.format,
        "files": list(report.files),
        "columns": dict(report.columns),
        "requests": report.requests,
        "objects": len(trace.names),
        "windows": trace.windows,
        "phases_per_epoch": trace.phases_per_epoch,
        "left_out": report.quarantined,
        "findings": [
            {
                "reason": finding.reason,
                "kept": finding.kept,
                "count": finding.count,
                "examples": [vars(example) for example in finding.examples],
            }
            for finding in report.findings
        ],
    }


def policy_json(study: Study) -> dict[str, Any]:
    """Return what to keep in memory and the figures behind it."""
    choice = study.choice
    return {
        "policy": choice.name,
        "pin_fraction": choice.pin_fraction,
        "reason": choice.reason,
        "cache_fraction": study.cache_fraction,
        "regime": choice.regime.to_json(),
        "model": study.result.chosen,
        "error": study.result.error,
        "policies": choice.summary(),
        "best_possible_hit_rate": study.best_possible,
        "windows": choice.evidence.to_pylist(),
    }


def _subtitle(study: Study) -> str:
    from importlib.metadata import version

    trace = study.imported.trace
    asked = f"{len(trace.objects):,} requests for {len(trace.names):,} objects"
    return f"{asked}; a cache for {study.cache_fraction * 100:.3g}% of them; foreshard {version('foreshard')}"


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()
