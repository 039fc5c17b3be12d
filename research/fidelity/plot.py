"""The picture of the surrogate's fidelity: along training, against noise, and the spectrum."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from research.fidelity.figures import Figures, Frozen, Run
from research.fidelity.gradients import BOTTOM, TARGETS

_COLOURS = colormaps["tab10"].colors  # pyright: ignore[reportAttributeAccessIssue]


def draw(first: Sequence[Run], runs: Sequence[Run]) -> Figure:
    """Return the picture.

    Args:
        first: the runs of one variant, one a seed: drawn over the steps, as medians over seeds.
        runs: all; each of their steps is a dot.
    """
    figure = Figure(figsize=(17, 9), layout="constrained")
    panels = list(figure.subplots(2, 3).flat)
    _draw_weights(panels[0], first)
    _draw_ratios(panels[1], first)
    _draw_noise(panels[2], runs)
    _draw_frozen(panels[3], first)
    _draw_spectrum(panels[4], first)
    _draw_conditions(panels[5], first)
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    return figure


def _logarithmic(axes: Axes) -> None:
    """Make the vertical axis logarithmic; it may span less than a decade."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0), numticks=9))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _mark_rows(axes: Axes, rows: Sequence[int]) -> None:
    """Make the horizontal axis logarithmic, with marks where there are points."""
    axes.set_xscale("log")
    axes.set_xticks(rows[::2], [f"{count:,}" for count in rows[::2]])
    axes.minorticks_off()


def _over_steps(
    runs: Sequence[Run], target: str, value: Callable[[Figures], float | None]
) -> tuple[list[int], list[float]]:
    """Return the measured steps, and the median over the runs at each."""
    at: dict[int, list[float]] = {}
    for run in runs:
        for found in run.figures:
            number = value(found) if found.target == target else None
            if number is not None:
                at.setdefault(found.step, []).append(number)
    return list(at), [float(np.median(values)) for values in at.values()]


def _draw_weights(axes: Axes, runs: Sequence[Run]) -> None:
    for method, colour in zip(runs[0].figures[0].weights, _COLOURS, strict=False):
        for target, style in ((BOTTOM, "-"), (TARGETS[0], ":")):
            points = _over_steps(runs, target, lambda f, m=method: f.weights[m].distance)
            axes.plot(*points, style, color=colour, label=f"{method}, {target}")
    axes.set(
        title=f"Weights of representation against parameters ({runs[0].variant})",
        xlabel="step",
        ylabel="weight elsewhere",
        ylim=(0, 1),
    )


def _draw_ratios(axes: Axes, runs: Sequence[Run]) -> None:
    for target, colour in zip(TARGETS, _COLOURS, strict=False):
        axes.plot(*_over_steps(runs, target, lambda f: f.surrogate), color=colour, label=target)
    equal = _over_steps(runs, BOTTOM, lambda f: f.uniform)
    axes.plot(*equal, "--", color="grey", label=f"equal weights, {BOTTOM}")
    bound = _over_steps(runs, BOTTOM, lambda f: f.bound)
    axes.plot(*bound, ":", color="grey", label=f"lemma's bound on the span, {BOTTOM}")
    axes.set(title=f"Surrogate ratio |ABw| / min |ABw| ({runs[0].variant})", xlabel="step")
    _logarithmic(axes)


def _draw_noise(axes: Axes, runs: Sequence[Run]) -> None:
    variants = list(dict.fromkeys(run.variant for run in runs))
    for number, variant in enumerate(variants):
        figures = [f for run in runs if run.variant == variant for f in run.figures]
        dots = [(np.mean(f.residuals), f.surrogate) for f in figures if f.target == BOTTOM]
        axes.plot(
            *zip(*dots, strict=True),
            ".",
            ms=4,
            alpha=0.6,
            color=_COLOURS[number % len(_COLOURS)],
            label=variant,
        )
    axes.set(
        title=f"Ratio against the noise in the gradients, {BOTTOM}",
        xlabel="residual of eq. 9 / gradient, mean of the tasks",
        ylabel="surrogate ratio",
    )
    _logarithmic(axes)


def _draw_spectrum(axes: Axes, runs: Sequence[Run]) -> None:
    for spectra in zip(*(run.spectra for run in runs), strict=True):
        curves = np.array([found.curve for found in spectra])
        share = np.linspace(0, 100, curves.shape[1])
        axes.plot(share, np.median(curves, 0), label=f"step {spectra[0].step}")
    axes.set(
        title="Singular values of dZ/dtheta, interaction; the rest is 0",
        xlabel="% of them, in descending order",
        ylabel="singular value",
        yscale="log",
    )


def _draw_frozen(axes: Axes, runs: Sequence[Run]) -> None:
    lines: dict[str, Callable[[Frozen], float]] = {
        "in the batch": lambda f: f.ratio,
        "on all rows: representation's weights": lambda f: f.representation,
        "on all rows: the batch's own weights": lambda f: f.own,
        "on all rows: equal weights": lambda f: f.uniform,
    }
    found = [[f for f in run.frozen if f.target == BOTTOM] for run in runs]
    rows = [f.rows for f in found[0]]
    for (label, value), colour in zip(lines.items(), _COLOURS, strict=False):
        values = [[value(f) for f in by_size] for by_size in found]
        axes.plot(rows, np.mean(values, 0), "o-", ms=3, color=colour, label=label)
    axes.set(
        title=f"One set of parameters, after training ({runs[0].variant}), {BOTTOM}",
        xlabel="rows of the batch",
        ylabel="|grad F w| / min |grad F w|",
    )
    _mark_rows(axes, rows)


def _draw_conditions(axes: Axes, runs: Sequence[Run]) -> None:
    rows = [count for count, _ in runs[0].spectra[0].conditions]
    for spectra in zip(*(run.spectra for run in runs), strict=True):
        values = [[value for _, value in found.conditions] for found in spectra]
        axes.plot(rows, np.median(values, 0), "o-", ms=3, label=f"step {spectra[0].step}")
    axes.set(
        title="s2 / least positive singular value, interaction",
        xlabel="rows",
    )
    _mark_rows(axes, rows)
    _logarithmic(axes)
