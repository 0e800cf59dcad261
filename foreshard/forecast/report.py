"""What a report on a log's forecast says: one section for each question, the same for the terminal and the page."""

from typing import TYPE_CHECKING, Final

import numpy as np

from foreshard.forecast.ranking import ForecastResult
from foreshard.forecast.sections import Cell, Column, Grid, Section, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foreshard.access.importers import Finding, Report
    from foreshard.access.trace import Trace
    from foreshard.forecast.backtest import Backtest
    from foreshard.forecast.study import Study

_METRICS: Final = (
    ("hit_mass", Column("hit mass", ".1%")),
    ("ndcg", Column("NDCG", ".3f")),
    ("precision", Column("precision", ".1%")),
    ("brier", Column("Brier", ".4f")),
    ("brier_skill_vs_last", Column("skill vs last", "+.2f")),
    ("ece", Column("ECE", ".3f")),
    ("log_loss", Column("log-loss", ".3f")),
)
_STATUS: Final = {"chosen": "chosen", "abstained": "abstained", "baseline": "baseline", "scored": ""}


def read_section(trace: "Trace", report: "Report") -> Section:
    """Say what was read, what was left out, and into which windows it was cut."""
    sizes = trace.nbytes
    requests = len(trace.objects)
    per_window = np.diff(trace.starts)
    cut = f"{trace.windows:,} of {int(per_window.min()):,} to {int(per_window.max()):,} requests"
    if trace.phases_per_epoch > 1:
        cut += f", {trace.phases_per_epoch} to an epoch"
    shown = [
        ("format", report.format),
        ("files", f"{len(report.files):,}: " + ", ".join(printable(name) for name in report.files[:3])),
        ("requests", f"{requests:,} for {len(trace.names):,} objects"),
        ("sizes", f"{float(sizes.sum()) / 1e6:,.1f} MB in all" if (sizes > 1).any() else "not told: all count alike"),
        ("windows", cut),
        ("left out", f"{report.quarantined:,} records" if report.quarantined else "nothing"),
    ]
    return Section("What was read", facts=shown, grid=_findings(report.findings))


def _findings(findings: "Sequence[Finding]") -> Grid | None:
    if not findings:
        return None
    columns = [
        Column("what is odd", left=True),
        Column("records", ",d"),
        Column("", left=True),
        Column("the first of them", left=True),
    ]
    rows: list[list[Cell]] = []
    for finding in findings:
        first = finding.examples[0] if finding.examples else None
        where = f"{printable(first.file)}, {first.where}: {printable(first.value)}" if first else None
        rows.append([finding.reason, finding.count, "kept" if finding.kept else "left out", where])
    return Grid(columns, rows)


def backtest_section(result: ForecastResult, cache_fraction: float) -> Section:
    """Say how good every model and baseline was on windows held out, which was chosen and how far to trust it."""
    title = "How well it can be forecast"
    tested = result.backtest
    if tested is None:
        told = "The log has too few windows for a backtest: the moving average is used, untested. Log more epochs."
        return Section(title, [told])
    rows = tested.summary()
    metrics = [(key, column) for key, column in _METRICS if key in rows[0]]
    grid = Grid(
        [
            Column("model", left=True),
            Column("origins", ",d"),
            *(column for _, column in metrics),
            Column("", left=True),
        ],
        [[_word(row["model"]), row["origins"], *(row[key] for key, _ in metrics), _status(row)] for row in rows],
        frozenset(number for number, row in enumerate(rows) if row["status"] == "chosen"),
    )
    note = (
        f"Hit mass: share of accesses on the {cache_fraction * 100:.3g} % of the chunks ranked first, which models are "
        "chosen by. NDCG and precision judge the same ranks; Brier, ECE and log-loss the probabilities, where "
        "less is better."
    )
    return Section(
        title, _verdict(result.chosen, tested), grid=grid, pictures=["hit_mass", "calibration"], notes=[note]
    )


def _verdict(chosen: str, tested: "Backtest") -> list[str]:
    curve = (
        "Platt's curve calibrates its probabilities" if tested.calibration else "its probabilities are used as they are"
    )
    told = (
        f"Chosen: {chosen}; {curve}. Its expected counts were {tested.error:.0%} off on the newest held-out windows, "
        "counting noise included."
    )
    return [told]


def _word(value: Cell) -> str:
    return str(value).replace("_", " ")


def _status(row: "dict[str, Cell]") -> str:
    return ": ".join(part for part in (_STATUS[str(row["status"])], str(row["reason"])) if part)


def ranking_section(result: ForecastResult, trace: "Trace", top: int) -> Section:
    """Say which chunks will be asked for most."""
    table = result.table.slice(0, top)
    phases = trace.phases_per_epoch > 1
    columns = [
        Column("rank", ",d"),
        Column("object", left=True),
        Column("expected", ",.2f"),
        Column("from", ",.2f"),
        Column("to", ",.2f"),
        Column("probability", ".3f"),
        *([Column("due in phase", ",d")] if phases else []),
    ]
    rows: list[list[Cell]] = [
        [
            int(row["rank"]) + 1,
            printable(trace.names[row["chunk"]]),
            *(float(row[name]) for name in ("expected", "lower", "upper", "probability")),
            *([int(row["first_phase"]) + 1] if phases else []),
        ]
        for row in table.to_pylist()
    ]
    unit = "epoch" if phases else "window"
    told = (
        f"The {table.num_rows:,} of {result.table.num_rows:,} objects expected to be asked for most in the next {unit}."
    )
    notes = ["From and to: bounds that 80 % of the counts should fall between. Probability: of at least one access."]
    return Section("What comes next", [told], grid=Grid(columns, rows), pictures=["top_chunks"], notes=notes)


def study_sections(study: "Study", top: int) -> list[Section]:
    """Return the report: what was read, how it is read, how well it can be forecast, what comes next, what to keep."""
    trace = study.imported.trace
    return [
        read_section(trace, study.imported.report),
        backtest_section(study.result, study.cache_fraction),
        ranking_section(study.result, trace, top),
    ]
