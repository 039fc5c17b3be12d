"""Tables as Markdown and CSV, and the conditions under which their figures came about."""

import csv
import io
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

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


def slug(name: str) -> str:
    """Return a name as part of a file's.

    >>> slug("MultiBalance, mbrec's defaults")
    'MultiBalance_mbrec_s_defaults'
    """
    words = "".join(c if c.isalnum() or c in "._" else " " for c in name).split()
    return "_".join(words)


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
    """Return under which conditions a page came about, as a Markdown list.

    Args:
        command: the arguments of this program, as typed after `python -m`.
        processes: ranks of each run.
        seeds: of the runs.
        trained: runs that were not there already.
        total: runs in all.
        seconds: that the command took.
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
    """Return on what processes of this machine compute, and how they talk."""
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
        print(f"the commit could not be found out: {error}", file=sys.stderr)
        return ""
    return f", commit {found.stdout.strip()}" if found.returncode == 0 else ""
