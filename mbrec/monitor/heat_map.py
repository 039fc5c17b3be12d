"""A K x K matrix as a picture."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Inches of a cell, of the names beside the cells, and dots per inch.
_CELL, _MARGIN, _DPI = 0.7, 1.3, 100


def draw(values: Sequence[Sequence[float]], names: Sequence[str]) -> tuple[bytes, int, int]:
    """Return a PNG of a matrix of cosines with its numbers, and its width and height in dots.

    Args:
        values: in [-1, 1]; NaN leaves a cell empty.
    """
    side = _MARGIN + _CELL * len(names)
    figure = Figure(figsize=(side + 0.6, side), dpi=_DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(np.asarray(values), vmin=-1.0, vmax=1.0, cmap="RdBu")
    figure.colorbar(image, ax=axes)
    ticks = range(len(names))
    # Names are text, whatever they hold.
    axes.set_xticks(ticks, names, rotation=30, ha="right", parse_math=False)
    axes.set_yticks(ticks, names, parse_math=False)
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            if not np.isnan(value):
                colour = "white" if abs(value) > 0.6 else "black"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour)
    png = BytesIO()
    canvas.print_png(png)
    width, height = canvas.get_width_height()
    return png.getvalue(), width, height
