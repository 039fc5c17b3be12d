"""A part of a reproduction, and the page that it writes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from matplotlib.figure import Figure

from mbrec.study.jobs import Job
from mbrec.study.pages import Table, slug, write
from mbrec.study.plots import save
from research.paper import printed
from research.paper.runs import Runs

Group = TypeVar("Group")


@dataclass
class Page:
    """A table, a picture, and how to read both.

    Attributes:
        name: of its files.
        title: its heading.
        table: the main table; also written as CSV.
        picture: also written as PNG.
        notes: how to read it.
        more: further tables, by heading.
        further: further pictures, by what they show.
        label: whose data these are.
    """

    name: str
    title: str
    table: Table
    picture: Figure | None
    notes: Sequence[str]
    more: dict[str, Table] = field(default_factory=dict)
    further: dict[str, Figure] = field(default_factory=dict)
    label: str = printed.LABEL

    def save(self, folder: Path, conditions: str) -> Path:
        """Write NAME.md, NAME.csv and NAME.png; return the first.

        Args:
            folder: for the files.
            conditions: under which the figures came about.
        """
        parts = [f"# {self.title}", f"**{self.label}**", self.table.markdown]
        if self.picture is not None:
            save(self.picture, folder / f"{self.name}.png")
            parts.append(f"![{self.title}]({self.name}.png)")
        for heading, picture in self.further.items():
            save(picture, folder / f"{self.name}_{slug(heading)}.png")
            parts += [f"## {heading}", f"![{heading}]({self.name}_{slug(heading)}.png)"]
        for heading, table in self.more.items():
            parts += [f"## {heading}", table.markdown]
            write(folder / f"{self.name}_{slug(heading)}.csv", table.csv)
        parts += ["## How to read it", "\n".join(f"- {note}" for note in self.notes)]
        parts += ["## How it came about", conditions]
        write(folder / f"{self.name}.csv", self.table.csv)
        write(folder / f"{self.name}.md", "\n\n".join(parts))
        return folder / f"{self.name}.md"


@dataclass(frozen=True)
class Part:
    """A page, and the runs that it needs.

    Attributes:
        write: makes the page, once all runs are done.
        jobs: the runs, once those are done by which settings are chosen.
        tuning_jobs: the runs by which settings are chosen.
    """

    write: Callable[[Runs], Page]
    jobs: Callable[[Runs], list[Job]] = lambda _: []
    tuning_jobs: Callable[[Runs], list[Job]] = lambda _: []


def table_of(
    labels: Sequence[str],
    columns: Mapping[str, Callable[[Group], str]],
    rows: Iterable[tuple[Sequence[str], Group]],
) -> Table:
    """Return a table whose columns are functions of what a row stands for.

    Args:
        labels: headings of the cells that name a row.
        columns: heading -> cell of a row.
        rows: names, and what they stand for.
    """
    table = Table([*labels, *columns])
    for names, group in rows:
        table.add(*names, *(cell(group) for cell in columns.values()))
    return table
