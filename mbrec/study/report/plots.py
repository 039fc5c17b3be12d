"""The pictures of a run."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.lines import Line2D

from mbrec.study.report.events import BLOCKS, MOST_POINTS, Events, Line, smooth, thin

WIDTH = 12.0
_FEW, _MANY = (colormaps[name].colors for name in ("tab10", "tab20"))  # pyright: ignore[reportAttributeAccessIssue]
_STYLES = ("-", "--", ":", "-.")
# Between the greatest value and the median, for an axis of magnitudes.
_SPREAD = 50
_LONGEST_NAME = 40
_NAMES_IN_A_COLUMN = 16
# Pixels of the page for an inch of a picture: the widest, of 12 inches, fill it.
_PIXELS = 85
_THINNED = (
    f"Faint: every step, of more than {MOST_POINTS:,} the least and the greatest of each stretch. "
    "Bold: the median (of shares, the mean) of each fiftieth of the steps."
)
_CUT = "A vertical axis that lines leave at the top fits their later half."

# Figure 2 c-e of He et al. 2024: tag and title.
BALANCE_PANELS = {
    "grad_norm": "gradient norm",
    "weight": "task weight",
    "weighted_norm": "weighted gradient norm",
}


@dataclass(frozen=True)
class Panel:
    """A part of a picture.

    Attributes:
        title: above it.
        lines: name -> line.
        from_zero: the vertical axis begins at 0.
        level: a value that is marked by a line.
        limits: of the vertical axis.
        late: the vertical axis fits the later half of the points, and may cut off the others.
        noisy: draw a smooth line over the faint one.
        by: makes a value of each stretch for the smooth line.
    """

    title: str
    lines: Mapping[str, Line]
    from_zero: bool = False
    level: float | None = None
    limits: tuple[float, float] | None = None
    late: bool = False
    noisy: bool = False
    by: Callable[[np.ndarray], Any] = np.median

    @property
    def is_cut(self) -> bool:
        """Whether some values are above the vertical axis."""
        return self.late and self.highest > 1.5 * self.highest_late

    @property
    def highest(self) -> float:
        """The greatest value of all lines."""
        return max(float(line.values.max()) for line in self.lines.values())

    @property
    def highest_late(self) -> float:
        """The greatest of the values that have to be seen: the later half, and the level."""
        late = max(float(line.last_half.max()) for line in self.lines.values())
        return late if self.level is None else max(late, self.level)


@dataclass(frozen=True)
class Picture:
    """A picture as a part of the page.

    Attributes:
        source: the picture itself, as a link.
        width: in pixels of the page.
        height: in pixels of the page.
        alt: for readers who do not see it.
        caption: below it.
    """

    source: str
    width: int
    height: int
    alt: str
    caption: str


def embedded(png: bytes, inches: tuple[float, float], alt: str, caption: str) -> Picture:
    """Return a picture that needs no other file; `inches` are its width and height."""
    width, height = (round(_PIXELS * size) for size in inches)
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return Picture(source, width, height, alt, caption)


def picture(panels: Sequence[Panel], alt: str, *, height: float = 3.4) -> Picture:
    """Return a picture of panels, with a caption that says what was left out of it."""
    drawn = draw(panels, height=height)
    noisy = any(len(line) > 2 * BLOCKS for p in panels if p.noisy for line in p.lines.values())
    cut = any(panel.lines and panel.is_cut for panel in panels)
    said = [text for text, holds in {_THINNED: noisy, _CUT: cut}.items() if holds]
    width, height = drawn.get_size_inches()
    return embedded(png(drawn), (width, height), alt, " ".join(said))


def balance_panels(events: Events, tasks: Sequence[str]) -> list[Panel]:
    """Return the panels of Figure 2 c-e of the paper: norms, weights, weighted norms."""
    return [
        Panel(title, events.by_task(tag, tasks), from_zero=True, noisy=True)
        for tag, title in BALANCE_PANELS.items()
    ]


def draw(panels: Sequence[Panel], *, height: float = 3.4) -> Figure:
    """Return a picture of panels side by side; a name has one colour in all of them.

    Args:
        panels: those without a line are left out.
        height: in inches; more if the names need it.
    """
    panels = [panel for panel in panels if panel.lines]
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    # The title of a panel says what its only line is.
    named = dict.fromkeys(n for p in panels if len(p.lines) > 1 for n in p.lines)
    rows = min(len(named), _NAMES_IN_A_COLUMN)
    figure = Figure(figsize=(WIDTH, max(height, 0.8 + 0.2 * rows)), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    looks = dict(zip(names, _looks(len(names)), strict=True))
    for axes, panel in zip(grid, panels, strict=True):
        _draw_panel(axes, panel, looks)
    if named:
        figure.legend(
            [Line2D([], [], lw=2, **looks[name]) for name in named],
            _labels(list(named)),
            loc="outside right center",
            frameon=False,
            fontsize=9,
            ncols=-(-len(named) // _NAMES_IN_A_COLUMN),
        )
    return figure


def _draw_panel(axes: Any, panel: Panel, looks: Mapping[str, dict[str, Any]]) -> None:
    for name, line in panel.lines.items():
        whole = thin(line)
        bold = smooth(line, panel.by) if panel.noisy else whole
        if bold is not line and panel.noisy:
            axes.plot(whole.steps, whole.values, lw=0.7, alpha=0.22, **looks[name])
        few = {"marker": "o", "markersize": 3} if len(bold) <= 30 else {}
        axes.plot(bold.steps, bold.values, lw=1.6, **few, **looks[name])
    if panel.level is not None:
        axes.axhline(panel.level, color="#888888", lw=1, ls=(0, (4, 3)), zorder=0)
    axes.set_title(panel.title, fontsize=11)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    axes.margins(y=0.08)
    axes.spines[["top", "right"]].set_visible(False)
    values = np.concatenate([line.values for line in panel.lines.values()])
    if panel.limits:
        axes.set_ylim(*panel.limits)
    elif panel.is_cut:
        margin = 0.08 * (panel.highest_late - values.min())
        axes.set_ylim(values.min() - margin, panel.highest_late + margin)
    elif values.min() > 0 and values.max() > _SPREAD * np.median(values):
        axes.set_yscale("log")
    elif panel.from_zero and values.min() >= 0:
        axes.set_ylim(bottom=0)


def png(figure: Figure) -> bytes:
    """Return a picture's bytes; the same for the same picture."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140, metadata={"Software": None})
    return buffer.getvalue()


def short(name: str, longest: int = 28) -> str:
    """Return a name in the characters of the pictures' font, and not too long for them."""
    known = _characters()
    shown = "".join(c if c.isprintable() and ord(c) in known else "?" for c in name)
    # Names in a run often differ at their ends alone.
    half = longest // 2
    return shown if len(shown) <= longest else f"{shown[: half - 1]}…{shown[-half:]}"


def _labels(names: Sequence[str]) -> list[str]:
    """Return names as a legend takes them; numbered where they would look the same."""
    shown = [short(name, _LONGEST_NAME) for name in names]
    distinct = [f"{n} ({i + 1})" if shown.count(n) > 1 else n for i, n in enumerate(shown)]
    # Matplotlib hides what begins with an underscore, and takes dollars for mathematics.
    return [(f" {n}" if n.startswith("_") else n).replace("$", r"\$") for n in distinct]


@cache
def _characters() -> frozenset[int]:
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def _looks(count: int) -> list[dict[str, Any]]:
    """Return a colour and a style for each line."""
    colours = _FEW if count <= len(_FEW) else _MANY
    return [
        {
            "color": colours[number % len(colours)],
            "linestyle": _STYLES[number // len(colours) % len(_STYLES)],
        }
        for number in range(count)
    ]
