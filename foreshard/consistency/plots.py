"""Plots of profile and scores, as small PNG files."""

import io
from typing import Any, Final

import numpy as np
import pyarrow as pa

from foreshard.consistency.profile import DatasetProfile

_DPI: Final = 72
_COLOURS: Final = 21
_PALETTE: Final = 64
_LABEL: Final = 24
_WRITE_NUMBERS: Final = 10


def score_plot(table: pa.Table) -> bytes:
    """Return a PNG of a `SCORE_SCHEMA` table: a bar per strategy, best on top, with its interval."""
    from matplotlib.figure import Figure

    names = table.column("strategy").to_pylist()[::-1]
    score, low, high = (table.column(name).to_numpy()[::-1] for name in ("score", "low", "high"))
    figure: Any = Figure(figsize=(7, 1 + 0.4 * len(names)), layout="constrained")
    axes: Any = figure.subplots()
    axes.barh(names, score, xerr=[score - low, high - score], color="#4c78a8", ecolor="#333333", capsize=3)
    for position, value in enumerate(score):
        axes.text(0.01, position, f"{value:.3f}", va="center", color="white")
    axes.set_xlim(0, 1)
    axes.set_xlabel("predicted consistency (1 = nodes and seeds agree), 90 % interval")
    return _png(figure)


def correlation_plot(profile: DatasetProfile) -> bytes:
    """Return a PNG heat map of the profile's correlations."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    used = {str(pair[end]) for pair in profile.correlations for end in ("a", "b")}
    names = [str(column["name"]) for column in profile.columns if column["name"] in used]
    place = {name: position for position, name in enumerate(names)}
    matrix = np.eye(max(1, len(names)))
    for pair in profile.correlations:
        i, j = place[str(pair["a"])], place[str(pair["b"])]
        matrix[i, j] = matrix[j, i] = float(pair["r"])
    side = 2.5 + 0.32 * len(names)
    figure: Any = Figure(figsize=(side + 1, side), layout="constrained")
    axes: Any = figure.subplots()
    colours: Any = colormaps["RdBu_r"].resampled(_COLOURS)
    image: Any = axes.imshow(matrix, vmin=-1, vmax=1, cmap=colours)
    short = [name[:_LABEL] for name in names]
    axes.set_xticks(range(len(names)), short, rotation=90)
    axes.set_yticks(range(len(names)), short)
    if len(names) <= _WRITE_NUMBERS:
        for i in range(len(names)):
            for j in range(len(names)):
                axes.text(j, i, f"{matrix[i, j]:.2f}", ha="center", va="center", fontsize=7)
    figure.colorbar(image, label="Pearson r")
    return _png(figure)


def _png(figure: Any) -> bytes:  # noqa: ANN401 - untyped library
    """Return the figure as a PNG with a palette: a fraction of the size of one in full colour."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(_DPI)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba(), np.uint8)).convert("RGB")
    sink = io.BytesIO()
    image.quantize(_PALETTE).save(sink, format="png", optimize=True)
    return sink.getvalue()
