"""Pictures of gains: by method, and of one task against another."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mbrec.files import atomic
from mbrec.study.gains import EXPLODED, Gains


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic.replacing(path) as file:
        FigureCanvasAgg(figure).print_figure(file, dpi=110, format="png")


def colours(num: int) -> list[tuple[float, ...]]:
    """Return colours; they repeat from the eleventh on."""
    found = colormaps["tab10"]
    return [tuple(found(index % 10)) for index in range(num)]


def gain_bars(
    panels: Mapping[str, Mapping[str, Gains]],
    title: str,
    *,
    published: Mapping[str, Mapping[str, float]] | None = None,
) -> Figure:
    """Return NE gains with their intervals, a panel for each data set, a row for each method.

    Args:
        panels: data set -> method -> its gains over equal weights.
        title: above all.
        published: data set -> method -> average gain that a paper prints, for a mark.
    """
    methods = list(dict.fromkeys(name for found in panels.values() for name in found))
    height = 1.6 + 0.42 * len(methods)
    figure = Figure(figsize=(4.6 * len(panels) + 1.5, height), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    every = [task for found in panels.values() for c in found.values() for task in c.by_task]
    tasks = list(dict.fromkeys(every))
    looks = dict(zip(tasks, colours(len(tasks)), strict=True))
    for axis, (panel, found) in zip(axes, panels.items(), strict=True):
        _bars(axis, methods, found, (published or {}).get(panel, {}), looks)
        axis.set(title=panel, xlabel="NE gain over equal weights, %")
    axes[0].set_yticks(range(len(methods)), methods)
    axes[0].invert_yaxis()
    handles = {}
    for axis in axes:
        found, labels = axis.get_legend_handles_labels()
        handles |= dict(zip(labels, found, strict=True))
    legend = [*handles.values()], [*handles]
    figure.legend(*legend, loc="outside lower center", ncols=6, frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure


def _bars(
    axis: Axes,
    methods: Sequence[str],
    found: Mapping[str, Gains],
    published: Mapping[str, float],
    looks: Mapping[str, tuple[float, ...]],
) -> None:
    places = {name: y for y, name in enumerate(methods)}
    tasks = list(dict.fromkeys(task for gains in found.values() for task in gains.by_task))
    axis.axvline(0, color="0.4", lw=0.8)
    for k, task in enumerate(tasks):
        offset = 0.28 * (2 * (k + 0.5) / len(tasks) - 1)
        rows = [(places[n], c.by_task[task]) for n, c in found.items() if task in c.by_task]
        axis.errorbar(
            [gain.mean for _, gain in rows],
            [y + offset for y, _ in rows],
            # One seed has no interval.
            xerr=[gain.half if math.isfinite(gain.half) else 0.0 for _, gain in rows],
            fmt="o",
            ms=3.5,
            lw=1.1,
            color=looks[task],
            label=task,
        )
    means = {places[n]: c.average.mean for n, c in found.items() if c.average is not None}
    marks = {places[n]: value for n, value in published.items() if n in places}
    axis.plot([*means.values()], [*means], "D", color="black", ms=4.5, mfc="none", label="average")
    if marks:
        look = {"color": "crimson", "ms": 6, "label": "average in the paper"}
        axis.plot([*marks.values()], [*marks], "x", **look)
    for name, gains in found.items():
        if gains.average is None:
            axis.annotate(EXPLODED, (0, places[name]), ha="center", va="center", color="crimson")
    axis.grid(axis="x", alpha=0.3)


def pareto(points: Mapping[str, Mapping[str, float]], title: str, better: str) -> Figure:
    """Return one panel for each pair of tasks, with a point for each method.

    Args:
        points: method -> task -> gain in per cent.
        title: above all.
        better: where better lies, for the labels of the axes.
    """
    tasks = list(next(iter(points.values())))
    pairs = [(a, b) for i, a in enumerate(tasks) for b in tasks[i + 1 :]] or [(tasks[0], tasks[0])]
    columns = min(3, len(pairs))
    rows = -(-len(pairs) // columns)
    figure = Figure(figsize=(5.0 * columns, 4.4 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis, (a, b) in zip(axes, pairs, strict=False):
        axis.axhline(0, color="0.6", lw=0.8)
        axis.axvline(0, color="0.6", lw=0.8)
        for (name, gains), colour in zip(points.items(), colours(len(points)), strict=True):
            here = gains[a], gains[b]
            front = not any(
                other[a] >= gains[a] and other[b] >= gains[b] and (other[a], other[b]) != here
                for other in points.values()
            )
            axis.plot(
                gains[a],
                gains[b],
                "o",
                color=colour,
                ms=9 if front else 5,
                label=name,
                mec="black" if front else colour,
            )
        axis.set(xlabel=f"{a}: {better}", ylabel=f"{b}: {better}")
        axis.grid(alpha=0.3)
    for axis in axes[len(pairs) :]:
        axis.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(f"{title}\n(large, with a rim: no other method is better on both)", fontsize=11)
    return figure
