"""Tables of NE gains over equal weights, beside those that the paper prints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib.figure import Figure

from mbrec.study.benchmark import Benchmark
from mbrec.study.estimate import median_detectable
from mbrec.study.gains import Gains
from mbrec.study.pages import Table
from mbrec.study.plots import gain_bars

NOT_AVAILABLE = "N/A"
SINGLE = "Single-task models"


@dataclass(frozen=True)
class Column:
    """The gains on one data set: of a task, or the average of all."""

    heading: str
    data_set: Benchmark
    task: str | None = None


@dataclass(frozen=True)
class Row:
    """A method.

    Attributes:
        name: in pictures.
        gains: by data set; of those that are missing there are none.
        printed: the paper's figures, column by column; empty where it has no such row.
        labels: the first cells of the row; the name, where not given.
    """

    name: str
    gains: Mapping[Benchmark, Gains]
    printed: Sequence[str] = ()
    labels: Sequence[str] = field(default=())


def gain_table(headings: Sequence[str], columns: Sequence[Column], rows: Sequence[Row]) -> Table:
    """Return a row per method, the paper's figures beside each column, and what is detectable."""
    table = Table([*headings, *(h for column in columns for h in (column.heading, "paper"))])
    for row in rows:
        ours = [
            row.gains[c.data_set].text(c.task) if c.data_set in row.gains else NOT_AVAILABLE
            for c in columns
        ]
        printed = row.printed or [""] * len(columns)
        pairs = zip(ours, printed, strict=True)
        table.add(*(row.labels or (row.name,)), *(cell for pair in pairs for cell in pair))
    blank = [""] * (len(headings) - 1)
    least = (cell for column in columns for cell in (_detectable(column, rows), ""))
    table.add("smallest detectable gain", *blank, *least)
    return table


def _detectable(column: Column, rows: Sequence[Row]) -> str:
    """Return the median over the rows of the gain that the seeds would have shown."""
    found = [row.gains[column.data_set] for row in rows if column.data_set in row.gains]
    whole = [gain for gain in found if gain.average is not None]
    gains = [gain.by_task[column.task] if column.task else gain.average for gain in whole]
    return median_detectable(gain for gain in gains if gain is not None)


def picture(
    title: str,
    data_sets: Sequence[Benchmark],
    rows: Sequence[Row],
    published: Mapping[str, Mapping[str, float]] | None = None,
) -> Figure:
    """Return a panel per data set, with the gains of each method.

    Args:
        title: above all.
        data_sets: in the order of the panels.
        rows: of methods.
        published: label of the data set -> method -> average gain that the paper prints.
    """
    panels = {
        data_set.label: {row.name: row.gains[data_set] for row in rows if data_set in row.gains}
        for data_set in data_sets
    }
    return gain_bars(panels, title, published=published)
