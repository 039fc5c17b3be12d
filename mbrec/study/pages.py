"""The parts of pages: tables as Markdown, CSV and text, templates, and conditions of a study."""

import csv
import io
import os
import platform
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from mbrec.files import atomic

PACKAGES = ("mbrec", "torch", "torchrec", "fbgemm-gpu-cpu", "fbgemm-gpu", "numpy", "scipy")


@dataclass
class Table:
    """A table of text.

    Attributes:
        columns: headings.
        rows: cells, as many as there are columns.
    """

    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)

    def add(self, *cells: str) -> None:
        """Add a row."""
        assert len(cells) == len(self.columns), (cells, self.columns)
        self.rows.append(list(cells))

    @property
    def markdown(self) -> str:
        """The table in Markdown.

        >>> print(Table(["task", "p|q"], [["ctr", "1"]]).markdown)
        | task | p\\|q |
        |---|---|
        | ctr | 1 |
        """
        escaped = [[cell.replace("|", "\\|") for cell in row] for row in (self.columns, *self.rows)]
        lines = ["| " + " | ".join(row) + " |" for row in escaped]
        lines.insert(1, "|" + "---|" * len(self.columns))
        return "\n".join(lines)

    @property
    def csv(self) -> str:
        """The table as comma-separated values."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.columns, *self.rows])
        return text.getvalue()

    def aligned(self, *, texts: int) -> str:
        """Return the table for a terminal.

        Args:
            texts: columns on the left that hold text, as the last one does; the others hold
                numbers, which are aligned to the right.

        >>> print(Table(["task", "rows", "run"], [["ctr", "1", "a"]]).aligned(texts=1))
        task  rows  run
        ctr      1  a
        """
        cells = [self.columns, *self.rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        sides = ["<" if i < texts or i == len(widths) - 1 else ">" for i in range(len(widths))]
        padded = [
            [f"{c:{s}{w}}" for c, s, w in zip(row, sides, widths, strict=True)] for row in cells
        ]
        return "\n".join("  ".join(row).rstrip() for row in padded)


def slug(name: str) -> str:
    """Return a name as part of a file's.

    >>> slug("MultiBalance, mbrec's defaults")
    'MultiBalance_mbrec_s_defaults'
    """
    words = "".join(c if c.isalnum() or c in "._" else " " for c in name).split()
    return "_".join(words)


def decimals(value: float | None) -> str:
    """Return a number with four decimals, or a dash."""
    return "-" if value is None else f"{value:.4f}"


def mean_and_deviation(values: Sequence[float]) -> str:
    """Return `mean ± standard deviation`; of one value, the value."""
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4f}{spread}"


def rendered(template: str, *, escape: bool, **values: Any) -> str:
    """Return a template of this package with values in the place of their names.

    Args:
        template: path of the file, below this package.
        escape: escape the values, as HTML needs.
        values: by name.
    """
    environment = Environment(
        autoescape=escape, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = (files("mbrec.study") / template).read_text(encoding="utf-8")
    return environment.from_string(text).render(values)


def write(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(path, text.rstrip("\n") + "\n")


def conditions(
    command: Sequence[str],
    processes: int,
    seeds: Sequence[int],
    *,
    trained: int,
    total: int,
    seconds: float,
) -> str:
    """Return the conditions under which a page was made, as a Markdown list.

    Args:
        command: the arguments of this program, as typed after `python -m`.
        processes: ranks of each run.
        seeds: of the runs.
        trained: number of runs that were not there already.
        total: number of all runs.
        seconds: duration of the command.
    """
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    lines = [
        f"command: `python -m {shlex.join(command)}`",
        f"versions: Python {platform.python_version()}, {', '.join(found)}{_commit()}",
        f"machine: {_cpu()}, {len(os.sched_getaffinity(0))} cores, {processes} processes on "
        f"{_devices(processes)}",
        f"seeds: {', '.join(map(str, seeds))}",
        f"took: {seconds / 60:.1f} min; {trained} of {total} runs were trained in it",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _devices(processes: int) -> str:
    """Return the devices of the processes, and their backend."""
    import torch  # a page without runs needs none

    if torch.cuda.is_available():
        used = min(processes, torch.cuda.device_count())
        return f"{used} x {torch.cuda.get_device_name(0)} (nccl)"
    return "them (gloo)"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    """Return the commit of a clone, or nothing for an installed package."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=8"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"the commit is not known: {error}", file=sys.stderr)
        return ""
    return f", commit {found.stdout.strip()}" if found.returncode == 0 else ""
