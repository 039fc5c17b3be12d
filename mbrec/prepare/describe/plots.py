"""The picture of a data set: label rates over time, how often ids come, missing values."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mbrec.files import atomic
from mbrec.prepare.describe.label_rates import LabelRates
from mbrec.prepare.describe.layout import TRAIN
from mbrec.prepare.describe.profile import Profile

_MOST_IDS, _MOST_NULLS = 8, 20
_SPREAD = 20  # between the largest and the smallest rate, for an axis of magnitudes
_COLOURS = colormaps["tab10"].colors  # pyright: ignore[reportAttributeAccessIssue]
_STYLES = ("-", "--", ":", "-.")
_SHADES = {"validation": "#f2d9a0", "test": "#c9d7ee", "evaluation": "#c9d7ee"}


def draw(out: str, profile: Profile, ids: Sequence[str], rates: LabelRates | None) -> bool:
    """Draw the picture of a data set.

    Args:
        out: the file to write; its ending says the format.
        profile: of the data set.
        ids: columns of ids.
        rates: of the labels, if there are any.

    Returns:
        Whether there was anything to draw.

    Raises:
        OSError: if the file cannot be written.
    """
    panels: list[tuple[float, Callable[[Any], None]]] = []
    if rates is not None:
        panels.append((3.4, lambda axes: _draw_rates(axes, rates)))
    if chosen := _widest(profile, ids):
        panels.append((3.4, lambda axes: _draw_frequencies(axes, profile, chosen)))
    if missing := _missing(profile):
        height = 0.9 + 0.22 * min(len(missing), _MOST_NULLS)
        panels.append((height, lambda axes: _draw_missing(axes, missing)))
    if not panels:
        return False
    heights = [height for height, _ in panels]
    figure = Figure(figsize=(9, sum(heights)), layout="constrained")
    grid = figure.subplots(len(panels), squeeze=False, height_ratios=heights)
    for (_, panel), axes in zip(panels, grid[:, 0], strict=True):
        panel(axes)
    path = Path(out)
    with atomic.replacing(path) as file:
        figure.savefig(file, dpi=120, format=path.suffix.removeprefix(".") or None)
    return True


def _draw_rates(axes: Any, rates: LabelRates) -> None:
    spans = {s: (min(at), max(at)) for s, at in rates.splits.items() if at}
    apart = _are_apart(list(spans.values()))
    seen: list[float] = []
    for number, label in enumerate(rates.labels):
        for split, style in zip(spans, _STYLES, strict=False):
            places = sorted(rates.splits[split])
            sums = np.array([rates.splits[split][place] for place in places])
            values = sums[:, number + 1] / sums[:, 0]
            seen += [value for value in values if value > 0]
            named = label if split == TRAIN else None
            axes.plot(
                [_position(place, rates) for place in places],
                values,
                style if not apart else "-",
                marker="o",
                markersize=3,
                linewidth=1.2,
                color=_COLOURS[number % len(_COLOURS)],
                label=named,
            )
    of = f"day ({rates.clock})" if rates.clock else "file (no column tells the time)"
    axes.set(title=f"Label rates by {of}", ylabel="rate")
    if apart:
        _shade(axes, spans, rates)
    else:
        for split, style in zip(spans, _STYLES, strict=False):
            axes.plot([], [], style, color="grey", label=split)
    if seen and max(seen) > _SPREAD * min(seen):
        axes.set_yscale("log", nonpositive="mask")
    else:
        axes.set_ylim(bottom=0)
    if rates.clock and rates.are_dates:
        ticks = AutoDateLocator(maxticks=9, interval_multiples=False)
        axes.xaxis.set_major_locator(ticks)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(ticks))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(rates.clock or "file")
    _finish(axes)


def _shade(axes: Any, spans: dict[str, tuple[int, int]], rates: LabelRates) -> None:
    """Shade the stretches that are held out, and name them all."""
    firsts, lasts = zip(*spans.values(), strict=True)
    middles = [(last + first) / 2 for last, first in zip(lasts, firsts[1:], strict=False)]
    edges = [firsts[0] - 0.5, *middles, lasts[-1] + 0.5]
    for split, *ends in zip(spans, edges, edges[1:], strict=False):
        left, right = (_position(end, rates) for end in ends)
        if split != TRAIN:
            axes.axvspan(left, right, color=_SHADES.get(split, "#dddddd"), alpha=0.6, lw=0)
        at, above = left + (right - left) / 2, axes.get_xaxis_transform()
        axes.text(at, 1.01, split, ha="center", va="bottom", fontsize=9, transform=above)
    axes.set_title(axes.get_title(), pad=18)


def _draw_frequencies(axes: Any, profile: Profile, columns: Sequence[str]) -> None:
    for number, name in enumerate(columns):
        counts = profile.sample.frequencies(name)
        # As many points as can be told apart: lines of a million would fill the file.
        ranks = np.unique(np.geomspace(1, len(counts), 400).astype(int))
        label = f"{name} ({len(counts):,})"
        axes.plot(ranks, counts[ranks - 1], color=_COLOURS[number], label=label, linewidth=1.4)
    whole = "the" if profile.sample.is_whole else "a sample of"
    rows = f"{whole} {profile.sample.rows:,} training rows"
    axes.set(xscale="log", yscale="log", xlabel="rank of the id", ylabel="times seen")
    axes.set_title(f"How often ids come, in {rows}")
    _finish(axes, "column (different ids)")


def _draw_missing(axes: Any, missing: Sequence[tuple[str, float]]) -> None:
    shown = missing[:_MOST_NULLS]
    more = f", the first {_MOST_NULLS} of {len(missing)}" if len(missing) > _MOST_NULLS else ""
    places = np.arange(len(shown))[::-1]
    axes.barh(places, [100 * share for _, share in shown], color="#8c8c8c", height=0.7)
    axes.set_yticks(places, [name for name, _ in shown])
    axes.set(title=f"Missing values in the training rows{more}", xlabel="% of the rows")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _finish(axes: Any, title: str | None = None) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title=title, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)


def _widest(profile: Profile, ids: Sequence[str]) -> list[str]:
    counted = [name for name in ids if name in profile.sample.counts]
    sizes = {name: len(profile.sample.counts[name]) for name in counted}
    return sorted((n for n in counted if sizes[n] > 1), key=lambda n: -sizes[n])[:_MOST_IDS]


def _missing(profile: Profile) -> list[tuple[str, float]]:
    rows = profile.rows[TRAIN]
    shares = [(c.name, c.stats.nulls / rows) for c in profile.fields.values() if c.stats.nulls]
    return sorted(shares, key=lambda share: -share[1])


def _are_apart(spans: list[tuple[int, int]]) -> bool:
    """Whether splits follow one another; two may meet within a day."""
    return all(last <= first for (_, last), (first, _) in pairwise(spans))


def _position(place: float, rates: LabelRates) -> Any:
    if rates.clock and rates.are_dates:
        return np.datetime64(0, "h") + np.timedelta64(round(24 * place), "h")
    return place
