"""Pictures of a forecast for the report and the Dagster UI: small PNGs, the same bytes for the same forecast.

Colours are those of Okabe and Ito, which people with any colour vision tell apart; every series has a line style of its
own as well, so that they survive a grey printer.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from foreshard.access.history import History
from foreshard.forecast.curves import (
    ORACLE,
    baseline_forecasts,
    cache_sizes,
    hit_mass_curves,
    over_time,
    reliability,
)
from foreshard.forecast.metrics import hit_mass
from foreshard.forecast.ranking import ForecastResult
from foreshard.forecast.sampling import sampled
from foreshard.forecast.trials import HeldOut

SMALL_DPI: Final = 80
"""For Dagster's event log, which keeps inline pictures for ever."""
LARGE_DPI: Final = 150

_SIZE: Final = (5.6, 4.2)
_PALETTE: Final = 256
_TOP: Final = 20
_LABEL: Final = 18
_LOG_FROM: Final = 100
"""Chunks from which on cache sizes are shown on a logarithmic axis."""
_EPOCH_TICKS: Final = 8
_BLUE: Final = "#0072B2"
_GREY: Final = "#6b6b6b"
_STYLES: Final[Mapping[str, dict[str, Any]]] = {
    ORACLE: {"color": "#000000", "linestyle": (0, (1, 1)), "linewidth": 1.4},
    "ewma": {"color": "#E69F00", "linestyle": "--", "linewidth": 1.4},
    "last": {"color": "#CC79A7", "linestyle": "-.", "linewidth": 1.4},
}
_CHOSEN: Final[dict[str, Any]] = {"color": _BLUE, "linestyle": "-", "linewidth": 2.6}
_WORDS: Final = {ORACLE: "oracle (knew it)", "ewma": "EWMA", "last": "last value"}


def forecast_plots(
    result: ForecastResult,
    history: History,
    *,
    names: Sequence[object] | None = None,
    cache_fraction: float | None = None,
    what: str = "chunks",
    dpi: int = SMALL_DPI,
) -> dict[str, bytes]:
    """Draw a forecast.

    Args:
        result: what `forecast_chunks` returned.
        history: what it was given.
        names: of the history's chunks, as labels; their numbers if None.
        cache_fraction: share of the chunks that fit into the cache, to be marked.
        what: the log's word for them.
        dpi: resolution; `SMALL_DPI` keeps each picture under 30,000 bytes.

    Returns:
        PNG files by name: `top_chunks`, and with a backtest `calibration` and `hit_mass`.
    """
    figures = {"top_chunks": top_chunks_figure(result, history, names, what)}
    if result.backtest is not None:
        held = result.backtest.held_out
        figures["calibration"] = calibration_figure(held, result.chosen)
        figures["hit_mass"] = hit_mass_figure(held, result.chosen, history, cache_fraction, what)
    return {name: _png(figure, dpi) for name, figure in figures.items()}


def calibration_figure(held: HeldOut, model: str) -> Any:  # noqa: ANN401 -- matplotlib has no types
    """Draw how often chunks were accessed that were given a probability, by tenths, over how many forecasts that is."""
    curve = reliability(held.probability, held.accessed)
    figure, (upper, lower) = _figure(_SIZE, nrows=2, sharex=True, height_ratios=[4, 1])
    upper.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle=":", label="perfectly calibrated")
    errors = np.stack([curve.came - curve.low, curve.high - curve.came])
    label = f"{_word(model)} (ECE {curve.ece:.3f})"
    upper.errorbar(curve.said, curve.came, errors, fmt="o-", color=_BLUE, markersize=4, capsize=2.5, label=label)
    upper.set(
        ylabel="share accessed", title="Calibration on the newest held-out windows", xlim=(0, 1), ylim=(-0.02, 1.02)
    )
    upper.legend(loc="best", fontsize=8, framealpha=0.9, edgecolor="0.9")
    lower.bar(curve.said, curve.size, width=0.04, color=_BLUE)
    lower.set(xlabel="forecast probability of an access in a window", ylabel="forecasts", yscale="log")
    lower.set_ylim(0.5, float(curve.size.max()) * 3)
    lower.minorticks_off()
    for axes in (upper, lower):
        _grid(axes)
    return figure


def hit_mass_figure(
    held: HeldOut, model: str, history: History, cache_fraction: float | None, what: str = "chunks"
) -> Any:  # noqa: ANN401
    """Draw the share of accesses on the chunks kept, by how many are: the model, the baselines and the oracle."""
    chunks = len(held.actual)
    sizes = cache_sizes(chunks)
    past = sampled(history)  # as the backtest did
    expected = {name: each for name, each in baseline_forecasts(past, len(held.accessed)).items() if name != model}
    expected[model] = held.expected
    figure, axes = _figure(_SIZE)
    share = sizes / chunks * 100
    for name, curve in hit_mass_curves(expected, held.actual, sizes).items():
        at = ""
        if cache_fraction is not None:
            ranked_by = held.actual if name == ORACLE else expected[name]
            at = f": {hit_mass(ranked_by, held.actual, cache_fraction):.1%}"
        style = _CHOSEN if name == model else _STYLES[name]
        # Dashes lie on top of the model's solid line, so that both are seen where they coincide.
        axes.plot(share, curve * 100, label=_word(name) + at, zorder=2 if name == model else 3, **style)
    by_chance = f": {cache_fraction:.1%}" if cache_fraction is not None else ""
    axes.plot(share, share, color="0.75", linewidth=1, label="by chance" + by_chance)
    axes.set(ylabel="accesses to them, %", title="Hit mass on the newest held-out windows", ylim=(0, 100))
    axes.set_xlabel(f"{what} kept, % of {history.chunks:,}")
    if cache_fraction is not None:
        axes.axvline(cache_fraction * 100, color=_GREY, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    _percent_axis(axes, share, logarithmic=chunks >= _LOG_FROM)
    if not held.actual.any():
        axes.text(0.5, 0.5, "no access in the held-out windows", transform=axes.transAxes, ha="center", color=_GREY)
    _grid(axes)
    title = f"with {cache_fraction * 100:.3g}% of the {what}" if cache_fraction is not None else None
    legend = axes.legend(loc="best", fontsize=8, title=title, title_fontsize=8, framealpha=0.9, edgecolor="0.9")
    legend.set_zorder(4)
    return figure


def top_chunks_figure(
    result: ForecastResult, history: History, names: Sequence[object] | None = None, what: str = "chunks"
) -> Any:  # noqa: ANN401
    """Draw the past accesses of the chunks forecast to be hottest, window by window, and the forecast beside them."""
    top = result.table.slice(0, _TOP)
    chunks = top.column("chunk").to_numpy()
    expected, low, high = (top.column(name).to_numpy() for name in ("expected", "lower", "upper"))
    seen, edges = over_time(history.counts[:, chunks])
    figure, (past, future) = _figure(_SIZE, ncols=2, sharey=True, width_ratios=[3, 1])
    from matplotlib.colors import PowerNorm
    from matplotlib.ticker import MaxNLocator

    rows = np.arange(len(chunks))
    # A square root brings out the weaker ones where one chunk outshines the rest.
    norm: Any = PowerNorm(0.5, 0, max(float(seen.max(initial=0.0)), 1.0))
    image = past.pcolormesh(edges, np.arange(len(chunks) + 1) - 0.5, seen, cmap="cividis", norm=norm)
    shown = plot_labels([chunk if names is None else names[chunk] for chunk in chunks.tolist()])
    past.set_yticks(rows, [f"{rank + 1}  {name}" for rank, name in enumerate(shown)], fontsize=7, parse_math=False)
    past.set_ylim(len(chunks) - 0.5, -0.5)
    past.set(ylabel="rank, name", title=f"The {len(chunks)} hottest {what} by forecast")
    _window_axis(past, history)
    ticks = MaxNLocator(4, integer=True)
    bar = figure.colorbar(
        image, ax=past, location="bottom", pad=0.02, aspect=40, label="accesses per window", ticks=ticks
    )
    bar.ax.tick_params(labelsize=7)
    errors = np.stack([expected - low, high - expected])
    future.errorbar(expected, rows, xerr=errors, fmt="o", color=_BLUE, markersize=3, elinewidth=1, capsize=1.5)
    per = "epoch" if history.phases_per_epoch > 1 else "window"
    future.set(title="Forecast", xlabel=f"next {per},\n80% interval")
    future.set_xlim(left=0)
    future.xaxis.set_major_locator(MaxNLocator(2, integer=True))
    future.tick_params(labelsize=7, axis="x")
    future.tick_params(left=False, axis="y")
    _grid(future)
    return figure


def plot_labels(names: Sequence[object]) -> list[str]:
    """Return names from a log as short labels that still tell them apart.

    Labels are printable ASCII, so that every font has them. Where one is too long, what all begin or end with is
    replaced by two dots, and what is still too long is cut in the middle.
    """
    told = [_printable(str(name)) for name in names]
    if len(told) > 1 and max(map(len, told)) > _LABEL:
        head = _shared(told)
        tail = min(_shared([text[::-1] for text in told]), min(map(len, told)) - head)
        told = [_without(text, head, tail) for text in told]
    return [
        text if len(text) <= _LABEL else f"{text[: _LABEL // 3]}..{text[-(_LABEL - _LABEL // 3 - 2) :]}"
        for text in told
    ]


def _printable(text: str) -> str:
    ascii_only = text.encode("ascii", "backslashreplace").decode()
    return "".join(letter if letter.isprintable() else "?" for letter in ascii_only)


def _shared(texts: Sequence[str]) -> int:
    """How many letters all texts begin with: as many as the first and the last one in order."""
    first, last = min(texts), max(texts)
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def _without(text: str, head: int, tail: int) -> str:
    middle = text[head : len(text) - tail]
    return f"{'..' if head > 2 else text[:head]}{middle}{'..' if tail > 2 else text[len(text) - tail :]}"  # noqa: PLR2004


def _word(model: str) -> str:
    return _WORDS.get(model, model)


def _percent_axis(axes: Any, share: NDArray[np.float64], *, logarithmic: bool) -> None:  # noqa: ANN401
    """A plain scale where there are few chunks: a logarithmic one gives the first few of them half the width."""
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(float(share[1]) if logarithmic else 0.0, 100.0)


def _window_axis(axes: Any, history: History) -> None:  # noqa: ANN401
    """Ticks at the beginning of epochs, where an epoch has several windows; else at windows."""
    per_epoch = history.phases_per_epoch
    if per_epoch == 1 or history.windows < 2 * per_epoch:
        axes.set_xlabel("windows since the log begins")
        axes.xaxis.get_major_locator().set_params(integer=True)
        return
    first = np.flatnonzero(history.phases == 0)
    first = first[:: -(-len(first) // _EPOCH_TICKS)]
    axes.set_xticks(first, [str(epoch) for epoch in history.epochs[first]])
    axes.set_xlabel(f"epoch ({per_epoch} windows each)")


def _grid(axes: Any) -> None:  # noqa: ANN401
    axes.set_axisbelow(True)
    axes.grid(visible=True, color="0.92", linewidth=0.7)


def _figure(size: tuple[float, float], **grid: Any) -> tuple[Any, Any]:  # noqa: ANN401
    """A figure of its own, outside pyplot's global state."""
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(**grid)


def _png(figure: Any, dpi: int) -> bytes:  # noqa: ANN401
    """Return the figure as a PNG with a palette: a fraction of the size of one in full colour."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(dpi)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba(), np.uint8)).convert("RGB")
    buffer = BytesIO()
    image.quantize(_PALETTE).save(buffer, format="png", optimize=True)
    return buffer.getvalue()
