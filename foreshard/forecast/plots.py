"""Pictures of a forecast for the report and the Dagster UI: small PNGs, the same bytes for the same forecast."""

from io import BytesIO
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from foreshard.access.history import History
from foreshard.forecast.ranking import ForecastResult
from foreshard.forecast.trials import HeldOut

_SIZE: Final = (5.0, 3.2)
_DPI: Final = 80
_BINS: Final = 10
_TOP: Final = 30
_POINTS: Final = 200


def forecast_plots(result: ForecastResult, history: History) -> dict[str, bytes]:
    """Draw a forecast.

    Args:
        result: what `forecast_chunks` returned.
        history: what it was given.

    Returns:
        PNG files by name: `top_chunks`, and with a backtest `calibration` and `hit_mass`.
    """
    plots = {"top_chunks": _top_chunks(result, history)}
    if result.backtest is not None:
        plots["calibration"] = _calibration(result.backtest.held_out, result.chosen)
        plots["hit_mass"] = _hit_mass(result.backtest.held_out, result.chosen)
    return plots


def _calibration(held: HeldOut, model: str) -> bytes:
    """How often chunks were drawn from that were given a probability, by tenths."""
    bins = np.minimum((held.probability.ravel() * _BINS).astype(np.int64), _BINS - 1)
    size = np.bincount(bins, minlength=_BINS)
    filled = size > 0
    said = np.bincount(bins, weights=held.probability.ravel(), minlength=_BINS)[filled] / size[filled]
    came = np.bincount(bins, weights=held.accessed.ravel(), minlength=_BINS)[filled] / size[filled]
    figure, axes = _figure()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, label="perfect")
    axes.plot(said, came, "o-", color="C0", linewidth=1, markersize=3, label=model)
    # Area tells how many forecasts a point stands for; kept out of the legend, which would copy the largest.
    axes.scatter(said, came, s=10 + 190 * size[filled] / size.max(), color="C0", alpha=0.4)
    axes.set(xlabel="forecast probability", ylabel="share drawn from", title="Calibration, newest held-out windows")
    axes.legend(loc="upper left", fontsize=8)
    return _png(figure)


def _hit_mass(held: HeldOut, model: str) -> bytes:
    """Share of draws on the hottest chunks, by how many of them are kept."""
    share = np.linspace(0, 1, _POINTS)
    figure, axes = _figure()
    axes.plot(share, _captured(held.actual, held.actual, share), color="0.6", label="if known beforehand")
    axes.plot(share, _captured(held.expected, held.actual, share), color="C0", label=model)
    axes.plot([0, 1], [0, 1], color="0.8", linewidth=1, label="by chance")
    axes.set(xlabel="share of chunks in memory", ylabel="share of draws", title="Hit mass, newest held-out windows")
    axes.legend(loc="lower right", fontsize=8)
    return _png(figure)


def _captured(
    ranked_by: NDArray[np.float64], actual: NDArray[np.float64], share: NDArray[np.float64]
) -> NDArray[np.float64]:
    mass = np.concatenate([[0.0], np.cumsum(actual[np.argsort(-ranked_by, kind="stable")])])
    return mass[np.round(share * len(actual)).astype(np.int64)] / max(float(mass[-1]), 1.0)


def _top_chunks(result: ForecastResult, history: History) -> bytes:
    """Draws of the chunks forecast to be hottest, window by window."""
    chunks = result.table.column("chunk").to_numpy()[:_TOP]
    figure, axes = _figure()
    image = axes.imshow(history.counts[:, chunks].T, aspect="auto", interpolation="nearest", cmap="viridis")
    axes.set(xlabel="window (epoch x phase)", ylabel="forecast rank", title=f"Draws of the top {len(chunks)} chunks")
    axes.xaxis.get_major_locator().set_params(integer=True)
    figure.colorbar(image, ax=axes, label="draws")
    return _png(figure)


def _figure() -> tuple[Any, Any]:
    """A figure of its own, outside pyplot's global state."""
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    return figure, figure.subplots()


def _png(figure: Any) -> bytes:  # noqa: ANN401 -- matplotlib has no types
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
