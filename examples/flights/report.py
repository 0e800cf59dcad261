"""What a person looks at: the table per epoch, the plot of the figures, and the heat map of chunk access."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.table import Table

from examples.flights.training import Progress

COLUMNS: Final = (
    ("origin_bytes", "origin\nMB", lambda v: f"{v / 1e6:,.1f}"),
    ("residency_hit_rate", "residency\nhit rate", lambda v: f"{v:.1%}"),
    ("ready_rate", "ready\nrate", lambda v: f"{v:.1%}"),
    ("prefetch_accuracy", "prefetch\naccuracy", lambda v: f"{v:.1%}"),
    ("fraction_of_min", "fraction\nof MIN", lambda v: f"{v:.1%}"),
    ("wait_s", "seconds\nwaited", lambda v: f"{v:.2f}"),
    ("auc", "validation\nAUC", lambda v: f"{v:.5f}"),
)
"""Figure, heading, format: in the order of the table."""

_HEAT_WIDTH: Final = 200


def epoch_table(main: Sequence[dict[str, Any]], control: Sequence[dict[str, Any]], every: int) -> Table:
    """Return the table: a line per epoch, the re-sharded run and the control side by side."""
    table = Table(title="Re-sharded run | control (the first layout throughout)", title_justify="left")
    table.add_column("epoch", justify="right")
    table.add_column("layout")
    for _, heading, _ in COLUMNS:
        table.add_column(heading, justify="right")
    for mine, theirs in zip(main, control, strict=True):
        cells = [f"{render(mine[name])} | {render(theirs[name])}" for name, _, render in COLUMNS]
        last = mine["epoch"] % every == 0 and mine["epoch"] < len(main)
        table.add_row(str(mine["epoch"]), mine["generation"], *cells, end_section=last)
    return table


def summary(main: Sequence[dict[str, Any]], control: Sequence[dict[str, Any]], every: int) -> list[str]:
    """Return a line per generation after the first: what the re-shard changed against the control."""
    lines: list[str] = []
    for start in range(every, len(main), every):
        mine, theirs = main[start : start + every], control[start : start + every]
        name = mine[0]["generation"]
        parts = [
            f"{label} {_ratio(sum(r[key] for r in mine), sum(r[key] for r in theirs))}"
            for key, label in (("origin_bytes", "origin bytes"), ("origin_requests", "requests"), ("wait_s", "waiting"))
        ]
        lines.append(f"{name}, epochs {start + 1}-{start + len(mine)}, re-sharded / control: {', '.join(parts)}")
    return lines


def _ratio(mine: float, theirs: float) -> str:
    return f"{mine / theirs:.2f}" if theirs else "n/a"


def write_report(folder: Path, main: Progress, control: Progress, every: int, verdict: Sequence[str]) -> list[Path]:
    """Write the figures (CSV, JSON), the plots (PNG) and a page that shows them; return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("epochs.csv", "epochs.json", "figures.png", "heat.png", "index.html")]
    rows = [{"arm": arm, **row} for arm, p in (("re-sharded", main), ("control", control)) for row in p.rows]
    with paths[0].open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    paths[1].write_text(json.dumps({"rows": rows, "verdict": list(verdict)}, indent=1), encoding="utf-8")
    _plot_figures(paths[2], main.rows, control.rows, every)
    _plot_heat(paths[3], main, control, every)
    paths[4].write_text(_page(main.rows, control.rows, [*summary(main.rows, control.rows, every), *verdict]), "utf-8")
    return paths


def _plot_figures(path: Path, main: Sequence[dict[str, Any]], control: Sequence[dict[str, Any]], every: int) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 4, figsize=(15, 6.5), layout="constrained")
    epochs = [row["epoch"] for row in main]
    for axis, (name, heading, _) in zip(axes.flat, COLUMNS, strict=False):
        scale = 1e6 if name == "origin_bytes" else 1
        for rows, label, style in ((control, "control", "o--"), (main, "re-sharded", "o-")):
            axis.plot(epochs, [row[name] / scale for row in rows], style, label=label, markersize=4)
        for boundary in range(every, len(main), every):
            axis.axvline(boundary + 0.5, color="0.6", linewidth=1, linestyle=":")
        axis.set_title(heading.replace("\n", " "))
        axis.set_xlabel("epoch")
        if name in ("origin_bytes", "wait_s"):
            axis.set_ylim(bottom=0)
    last = axes.flat[-1]
    last.axis("off")
    handles, texts = axes.flat[0].get_legend_handles_labels()
    last.legend(handles, texts, loc="upper left", title="dotted: a new generation")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _plot_heat(path: Path, main: Progress, control: Progress, every: int) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.colors import LogNorm

    norm = LogNorm(1e-3, 1)
    figure, axes = plt.subplots(1, 2, figsize=(13, 5), layout="constrained", sharey=True)
    for axis, progress, title in ((axes[0], control, "control"), (axes[1], main, "re-sharded")):
        image = axis.imshow(
            _heat(progress), aspect="auto", cmap="inferno", norm=norm, origin="lower", interpolation="nearest"
        )
        for boundary in range(every, progress.epochs, every):
            if progress is main:
                axis.axhline(boundary - 0.5, color="w", linewidth=1, linestyle=":")
        axis.set_title(title)
        axis.set_xlabel("train chunks, most touched first (percent)")
        axis.set_xticks(np.linspace(0, _HEAT_WIDTH - 1, 6), [f"{p}" for p in range(0, 101, 20)])
        axis.set_yticks(range(progress.epochs), [str(e + 1) for e in range(progress.epochs)])
    axes[0].set_ylabel("epoch")
    figure.colorbar(image, ax=axes, shrink=0.9, label="share of the epoch's steps that touch the chunk")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _heat(progress: Progress, width: int = _HEAT_WIDTH) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Touches per step of each chunk, most touched first; layouts of different sizes are drawn to one width."""
    heat = np.zeros((progress.epochs, width))
    for i, (row, touched) in enumerate(zip(progress.rows, progress.touched, strict=True)):
        counts = np.sort(np.array(touched, float))[::-1]
        share = counts[np.linspace(0, len(counts) - 1, width).round().astype(int)] / (row["steps"] / row["loaders"])
        heat[i] = np.maximum(share, 1e-3)
    return heat


def _page(main: Sequence[dict[str, Any]], control: Sequence[dict[str, Any]], lines: Sequence[str]) -> str:
    head = "".join(f"<th>{heading}</th>" for _, heading, _ in COLUMNS)
    body = "".join(
        f"<tr><td>{mine['epoch']}</td><td>{mine['generation']}</td>"
        + "".join(f"<td>{render(mine[n])} | {render(theirs[n])}</td>" for n, _, render in COLUMNS)
        + "</tr>"
        for mine, theirs in zip(main, control, strict=True)
    )
    style = "body{font:15px system-ui;margin:2em}td,th{padding:.2em .8em;text-align:right}img{max-width:100%}"
    return (
        f"<!doctype html><meta charset='utf-8'><title>foreshard demo</title><style>{style}</style>"
        "<h1>foreshard: the flights demo</h1><p>Each cell: re-sharded run | control (the first layout throughout).</p>"
        f"<table><tr><th>epoch</th><th>layout</th>{head}</tr>{body}</table>"
        + "".join(f"<p>{line}</p>" for line in lines)
        + "<img src='figures.png' alt='figures over epochs'><img src='heat.png' alt='chunk access'>"
    )
