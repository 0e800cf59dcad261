"""What a report on a log's forecast says: one section for each question, the same for the terminal and the page."""

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import numpy as np

from foreshard.forecast.pins import pins
from foreshard.forecast.ranking import ForecastResult
from foreshard.forecast.sections import Cell, Column, Grid, Section, printable
from foreshard.simulate.caches import KEEP
from foreshard.simulate.shadow import POLICIES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from foreshard.access.importers import Finding, Report
    from foreshard.access.trace import Trace
    from foreshard.forecast.backtest import Backtest
    from foreshard.forecast.gate import PolicyChoice
    from foreshard.forecast.regime import Regime
    from foreshard.forecast.study import Study

_NOTHING: Final = (
    "There is nothing to predict: everything is read equally often, so no ranking beats chance, and only the order "
    "tells what comes next. Where the sampler's seed is known, use that order. The scores below are those of guessing; "
    "the ranking is left out."
)
_FIGURES: Final = {
    "equal_share": "objects read equally often in every epoch",
    "rounds": "requests that came in rounds over all objects",
    "dispersion": "variance around an object's mean, in Poisson variances",
    "spread": "variation of rates per byte beyond counting noise",
    "object_spread": "variation of rates per object beyond counting noise",
    "concentration": "requests to the tenth read most",
    "overlap": "overlap of the tenths read most, next window",
    "overlap_far": "the same, half the log apart",
    "persistence": "likeness of rates half the log apart",
    "unseen": "late requests to objects not seen before",
    "seasonal_gain": "variation that the epoch's phase explains",
    "seasonal_errors": "the same in standard errors",
}
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
    more = ", ..." if len(report.files) > 3 else ""  # noqa: PLR2004 - as many as are shown
    shown = [
        ("format", report.format),
        ("files", f"{len(report.files):,}: {', '.join(map(printable, report.files[:3]))}{more}"),
        *_columns_used(report.columns),
        ("requests", f"{requests:,} for {len(trace.names):,} objects"),
        ("sizes", f"{float(sizes.sum()) / 1e6:,.1f} MB in all" if (sizes > 1).any() else "not told: all count alike"),
        ("windows", cut),
        ("left out", f"{report.quarantined:,} records" if report.quarantined else "nothing"),
    ]
    return Section("What was read", facts=shown, grid=_findings(report.findings))


def _columns_used(columns: "Mapping[str, str]") -> "list[tuple[str, str]]":
    used = ", ".join(f"{role} from {printable(name)}" for role, name in columns.items())
    return [("columns", used)] if used else []


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


def regime_section(regime: "Regime") -> Section:
    """Say what kind of access the log shows, and by which figures."""
    figures = asdict(regime.evidence)
    shown = [
        (_FIGURES.get(name, name.replace("_", " ")), f"{value:.3f}")
        for name, value in figures.items()
        if value is not None
    ]
    return Section("How it is read", [regime.words], shown)


def backtest_section(result: ForecastResult, cache_fraction: float, *, uniform: bool = False) -> Section:
    """Say how good every model and baseline was on windows held out, which was chosen and how far to trust it.

    Args:
        result: the forecast.
        cache_fraction: share of the objects that the hit mass is told for.
        uniform: whether there is nothing to predict.
    """
    title = "How well it can be forecast"
    tested = result.backtest
    if tested is None:
        told = "The log has too few windows for a backtest: the moving average is used, untested. Log more epochs."
        return Section(title, [told])
    rows = tested.summary()
    grid = Grid(
        [
            Column("model", left=True),
            Column("origins", ",d"),
            *(column for _, column in _METRICS),
            Column("", left=True),
        ],
        [[_word(row["model"]), row["origins"], *(row[key] for key, _ in _METRICS), _status(row)] for row in rows],
        frozenset(number for number, row in enumerate(rows) if row["status"] == "chosen"),
    )
    note = (
        f"Hit mass: share of accesses on the {cache_fraction * 100:.3g}% of the objects ranked first; models are "
        "chosen by it. NDCG and precision judge the same ranks; Brier, ECE and log-loss the probabilities, where "
        "less is better."
    )
    sentences = [_NOTHING] if uniform else _verdict(result.chosen, result.note, tested)
    return Section(title, sentences, grid=grid, pictures=["hit_mass", "calibration"], notes=[note])


def _verdict(chosen: str, note: str, tested: "Backtest") -> list[str]:
    curve = (
        "Platt's curve calibrates its probabilities" if tested.calibration else "its probabilities are used as they are"
    )
    told = (
        f"Chosen: {chosen}; {curve}. Its expected counts were {tested.error:.0%} off on the newest held-out windows, "
        "counting noise included."
    )
    return [told, *([note] if note else [])]


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
        Column("from", ",d"),
        Column("to", ",d"),
        Column("probability", ".3f"),
        *([Column("due in phase", ",d")] if phases else []),
    ]
    rows: list[list[Cell]] = [
        [
            int(row["rank"]) + 1,
            printable(trace.names[row["chunk"]]),
            float(row["expected"]),
            # Counts are whole: a bound of 0.1 would leave out 0, which for a mean of 1 are a third of all cases.
            *(math.floor(row[name]) for name in ("lower", "upper")),
            float(row["probability"]),
            *([int(row["first_phase"]) + 1] if phases else []),
        ]
        for row in table.to_pylist()
    ]
    unit = "epoch" if phases else "window"
    told = (
        f"The {table.num_rows:,} of {result.table.num_rows:,} objects expected to be asked for most in the next {unit}."
    )
    notes = ["From and to: meant for 80% of the counts, where interest lasts. Probability: of at least one access."]
    return Section("What comes next", [told], grid=Grid(columns, rows), pictures=["top_chunks"], notes=notes)


def policy_section(study: "Study") -> Section:
    """Say what to keep in memory, and what each way would have brought."""
    choice, unit = study.choice, "epoch" if study.history.phases_per_epoch > 1 else "window"
    trace = study.imported.trace
    windows = choice.evidence.column("window").to_numpy() + 1
    rows = choice.summary()
    columns = [
        Column("policy", left=True),
        Column("hits", ".1%"),
        Column("loads per request", ".3f"),
        Column("of these ahead", ".3f"),
        Column("", left=True),
    ]
    cells: list[list[Cell]] = [
        [
            str(row["policy"]),
            *(float(row[name]) for name in ("hit_rate", "loads_per_request", "ahead_per_request")),
            "chosen" if row["chosen"] else "",
        ]
        for row in rows
    ]
    told = "knows the future and fetches nothing ahead"
    if (trace.nbytes != trace.nbytes[0]).any():
        told += "; sizes differ, so that it is no upper bound"
    cells.append(["MIN", study.best_possible, None, None, told])
    note = (
        f"What each would have done in windows {windows.min()} to {windows.max()} with a cache for "
        f"{study.cache_fraction * 100:.3g}% of the bytes, by forecasts made before each {unit}. Loads include what is "
        "fetched ahead, which is taken to be there when its window begins."
    )
    marked = frozenset(number for number, row in enumerate(rows) if row["chosen"])
    return Section(
        "What to keep in memory", [_advice(choice), choice.reason], grid=Grid(columns, cells, marked), notes=[note]
    )


def _advice(choice: "PolicyChoice") -> str:
    if choice.name == KEEP:
        return "Keep what is in memory and evict nothing."
    if not choice.pin_fraction:
        return f"Let {choice.name} decide what stays, and pin nothing."
    pinned = f"Give {choice.pin_fraction:.0%} of the cache to what is expected most per byte"
    rest = next((policy.rest for policy in POLICIES if policy.name == choice.name), None)
    others = f", and the rest to {rest}" if rest else ""
    return f"{pinned}{others}; choose anew for every window. --out lists the objects in pins.parquet."


def study_sections(study: "Study", top: int) -> list[Section]:
    """Return the report: what was read, how it is read, how well it can be forecast, what comes next, what to keep."""
    # Where pinning by forecast is advised all the same, the ranking is no guess.
    trace, uniform = study.imported.trace, study.regime.kind == "uniform" and not pins(study)
    return [
        read_section(trace, study.imported.report),
        regime_section(study.regime),
        backtest_section(study.result, study.cache_fraction, uniform=uniform),
        *([] if uniform else [ranking_section(study.result, trace, top)]),
        policy_section(study),
    ]
