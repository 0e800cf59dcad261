"""Pictures of a plan: chunk sizes against heat, and the balance of nodes."""

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from foreshard.layout.candidates import TRAIN

if TYPE_CHECKING:
    from foreshard.layout.planner import PlanResult


def plan_plot(result: "PlanResult") -> bytes:
    """Return a PNG of the rows of every training chunk against its expected draws per row."""
    plan = result.plan
    train = plan.column("split") == TRAIN
    rows = plan.column("rows")[train].astype(np.float64)
    density = plan.column("heat")[train].astype(np.float64) / rows
    figure, axes = _figure()
    axes.scatter(density, rows, s=8, alpha=0.4, linewidths=0)
    axes.set_xlabel("expected draws per row and epoch")
    axes.set_ylabel("rows in the chunk")
    axes.set_yscale("log", base=2)
    axes.set_title(f"{plan.generation}: {len(rows)} training chunks, {plan.strategy} ({plan.decision})", fontsize=9)
    return _png(figure)


def balance_plot(result: "PlanResult") -> bytes:
    """Return a PNG of each node's share of the chunks' bytes and of the expected draws."""
    plan = result.plan
    node, count = plan.column("node").astype(np.int64), len(plan.nodes)
    figure, axes = _figure()
    for shift, label, values in (
        (-0.2, "bytes", plan.column("rows").astype(np.float64)),
        (0.2, "draws", plan.column("heat").astype(np.float64)),
    ):
        share = np.bincount(node, values, count) / max(float(values.sum()), 1e-300)
        axes.bar(np.arange(count) + shift, share, width=0.4, label=label)
    axes.set_xticks(np.arange(count), plan.nodes)
    axes.set_ylabel("share")
    axes.legend()
    axes.set_title(f"{plan.generation}: slowest node reads for {result.assignment.makespan:.3g} s", fontsize=9)
    return _png(figure)


def _figure() -> tuple[Any, Any]:
    # The object interface: pyplot would keep figures and choose a display backend.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), dpi=90, layout="constrained")
    return figure, figure.subplots()


def _png(figure: Any) -> bytes:  # noqa: ANN401 - matplotlib's figure, which comes in untyped
    sink = io.BytesIO()
    figure.savefig(sink, format="png", metadata={"Software": None})
    return sink.getvalue()
