"""The picture of a data set: label rates over time, frequencies of ids, missing values."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mbrec.files import atomic
from mbrec.prepare.describe.labels import LabelRates
from mbrec.prepare.describe.layout import TRAIN
from mbrec.prepare.describe.profile import Field, Profile

_MOST_IDS, _MOST_NULLS = 8, 20
_SPREAD = 20  # between the largest and the smallest rate, for a logarithmic axis
_COLOURS = colormaps["tab10"].colors  # pyright: ignore[reportAttributeAccessIssue]
_STYLES = ("-", "--", ":", "-.")
_SHADES = {"validation": "#f2d9a0", "test": "#c9d7ee", "evaluation": "#c9d7ee"}


def draw(out: str, profile: Profile, ids: Sequence[str], rates: LabelRates | None) -> bool:
    """Draw the picture of a data set; return whether there was anything to draw.

    Args:
        out: the file to write; its ending decides the format.
        profile: of the data set.
        ids: names of columns.
        rates: of the labels, if there are any.

    Raises:
        OSError: if the file cannot be written.
    """
    counted = [profile.fields[name] for name in ids if len(profile.fields[name].seen) > 1]
    counted = sorted(counted, key=lambda column: -len(column.seen))[:_MOST_IDS]
    missing = [column for column in profile.fields.values() if column.stats.nulls]
    missing.sort(key=lambda column: -column.stats.nulls)
    panels: list[tuple[float, Any]] = []
    if rates is not None:
        panels.append((3.4, partial(_draw_rates, rates)))
    if counted:
        panels.append((3.4, partial(_draw_frequencies, profile, counted)))
    if missing:
        height = 0.9 + 0.22 * min(len(missing), _MOST_NULLS)
        panels.append((height, partial(_draw_missing, profile.rows[TRAIN], missing)))
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


def _draw_rates(rates: LabelRates, axes: Any) -> None:
    spans = {s: (min(at), max(at)) for s, at in rates.splits.items() if at}
    # Whether splits follow one another; two may meet within a day.
    apart = all(last <= first for (_, last), (first, _) in pairwise(spans.values()))
    seen: list[float] = []
    for number, label in enumerate(rates.labels):
        for split, style in zip(spans, _STYLES, strict=False):
            places = sorted(rates.splits[split])
            sums = np.array([rates.splits[split][place] for place in places])
            values = sums[:, number + 1] / sums[:, 0]
            seen += [value for value in values if value > 0]
            axes.plot(
                [_position(place, rates) for place in places],
                values,
                "-" if apart else style,
                marker="o",
                markersize=3,
                linewidth=1.2,
                color=_COLOURS[number % len(_COLOURS)],
                label=label if split == TRAIN else None,
            )
    of = f"day ({rates.clock})" if rates.clock else "file (no column states the time)"
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
    """Shade the stretches that are held out, and name all of them."""
    middles = [(last + first) / 2 for (_, last), (first, _) in pairwise(spans.values())]
    ends = [end for span in spans.values() for end in span]
    edges = [ends[0] - 0.5, *middles, ends[-1] + 0.5]
    for split, between in zip(spans, pairwise(edges), strict=True):
        left, right = (_position(end, rates) for end in between)
        if split != TRAIN:
            axes.axvspan(left, right, color=_SHADES.get(split, "#dddddd"), alpha=0.6, lw=0)
        at, above = left + (right - left) / 2, axes.get_xaxis_transform()
        axes.text(at, 1.01, split, ha="center", va="bottom", fontsize=9, transform=above)
    axes.set_title(axes.get_title(), pad=18)


def _draw_frequencies(profile: Profile, columns: Sequence[Field], axes: Any) -> None:
    for number, column in enumerate(columns):
        counts = column.times_seen
        # As many points as the eye can separate: lines of a million would fill the file.
        ranks = np.unique(np.geomspace(1, len(counts), 400).astype(int))
        label = f"{column.name} ({len(counts):,})"
        axes.plot(ranks, counts[ranks - 1], color=_COLOURS[number], label=label, linewidth=1.4)
    whole = "the" if profile.sample.is_whole else "a sample of"
    rows = f"{whole} {len(profile.sample.table):,} training rows"
    axes.set(xscale="log", yscale="log", xlabel="rank of the id", ylabel="times seen")
    axes.set_title(f"Frequencies of ids in {rows}")
    _finish(axes, "column (different ids)")


def _draw_missing(rows: int, missing: Sequence[Field], axes: Any) -> None:
    shown = missing[:_MOST_NULLS]
    more = f", the first {_MOST_NULLS} of {len(missing)}" if len(missing) > _MOST_NULLS else ""
    places = np.arange(len(shown))[::-1]
    shares = [100 * column.stats.nulls / rows for column in shown]
    axes.barh(places, shares, color="#8c8c8c", height=0.7)
    axes.set_yticks(places, [column.name for column in shown])
    axes.set(title=f"Missing values in the training rows{more}", xlabel="% of the rows")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _finish(axes: Any, title: str | None = None) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title=title, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)


def _position(place: float, rates: LabelRates) -> Any:
    if rates.clock and rates.are_dates:
        return np.datetime64(0, "h") + np.timedelta64(round(24 * place), "h")
    return place
