"""The table of a sweep: its jobs, what was swept, and what came of it.

Shapes: none; a row a job.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mbrec.files import atomic, sealed
from mbrec.job.check import SWEEP_TABLE as TABLE
from mbrec.job.status import NAME as STATUS
from mbrec.study.sweep.jobs import Job

MARKDOWN = "sweep.md"
FIGURES = {"ne": "NE", "auc": "AUC"}
NUMBER = "{:.4f}"
# Of a reason on a terminal; the files have all of it.
MAX_REASON = 60


@dataclass(frozen=True)
class Row:
    """What became of a job.

    Attributes:
        job: the job.
        state: finished; measurement (finished, and not to be compared); failed; interrupted; or
            waiting.
        reason: why it has failed.
        metrics: its metrics.json; empty before it has finished.
    """

    job: Job
    state: str
    reason: str
    metrics: Mapping[str, Any]

    def figure(self, task: str, name: str) -> float | None:
        """Return a figure of a task, if there is one."""
        return self.metrics.get("tasks", {}).get(task, {}).get(name)


class SweepTable:
    """Reads the folders of a sweep's jobs, and writes their table.

    Args:
        folder: of the sweep.
        jobs: in order.

    Attributes:
        failures: job -> why it has failed, of those that have failed now.
        step: jobs that are finished, for the sweep's status.
    """

    def __init__(self, folder: Path, jobs: Sequence[Job]) -> None:
        self._folder, self._jobs = folder, list(jobs)
        self.failures: dict[str, str] = {}
        self.step = 0

    def to_do(self) -> list[str]:
        """Return the names of the jobs that are not finished.

        Those that were begun and neither finished nor saved come last: what ended them may do so
        again, and the others have not been tried.
        """
        rows = [(row, _state(self._folder / row.job.name)) for row in self.rows()]
        left = [(row.job.name, state) for row, state in rows if not row.metrics]
        return [name for name, _ in sorted(left, key=lambda pair: pair[1] in _BROKEN)]

    def rows(self) -> list[Row]:
        """Return the jobs as they stand."""
        found = [self._row(job) for job in self._jobs]
        self.step = sum(bool(row.metrics) for row in found)
        return found

    def _row(self, job: Job) -> Row:
        folder = self._folder / job.name
        if (path := folder / "metrics.json").exists():
            metrics = sealed.read_json(path)
            return Row(job, "measurement" if "measurement" in metrics else "finished", "", metrics)
        if job.name in self.failures:
            return Row(job, "failed", self.failures[job.name], {})
        stopped = _state(folder) in ("resumable", "stopped")
        return Row(job, "interrupted" if stopped else "waiting", "", {})

    def write(self) -> None:
        """Write the table into the sweep's folder, as Markdown and as CSV."""
        rows = self.rows()
        for name, content in ((MARKDOWN, markdown(rows)), (TABLE, as_csv(rows, self._folder))):
            atomic.write_text(self._folder / name, content)

    def __str__(self) -> str:
        return text(self.rows())


# States of a job that has not ended by itself.
_BROKEN = ("starting", "running", "failed")


def _state(folder: Path) -> str:
    """Return how a run stands by its own account; empty where it was not begun."""
    path = folder / STATUS
    return str(sealed.read_json(path).get("state", "")) if path.exists() else ""


def best(rows: Sequence[Row]) -> dict[str, float]:
    """Return the lowest NE of each task among the jobs that may be compared."""
    found = {}
    for task in _tasks(rows):
        values = [row.figure(task, "ne") for row in rows if row.state == "finished"]
        if known := [value for value in values if value is not None]:
            found[task] = min(known)
    return found


def text(rows: Sequence[Row]) -> str:
    """Return the table for a terminal; a star marks the best NE of a task."""
    cells = _cells(rows, "{}*", pad="{} ", reason=MAX_REASON)
    numeric = len(rows[0].job.swept)
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = []
    for line in cells:
        sides = ["<" if i < numeric or i == len(line) - 1 else ">" for i in range(len(line))]
        padded = [f"{c:{s}{w}}" for c, s, w in zip(line, sides, widths, strict=True)]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def markdown(rows: Sequence[Row]) -> str:
    """Return the table as Markdown; the best NE of a task is bold."""
    cells = [[c.replace("|", "\\|") for c in line] for line in _cells(rows, "**{}**")]
    head, *body = [f"| {' | '.join(line)} |" for line in cells]
    return "\n".join([head, "|" + "---|" * len(cells[0]), *body]) + "\n"


def as_csv(rows: Sequence[Row], folder: Path) -> str:
    """Return the table as CSV: all digits, and the tasks whose best NE a job has."""
    lowest, tasks = best(rows), _tasks(rows)
    keys = [(task, name) for name in FIGURES for task in tasks]
    head = [*_swept(rows), *(f"{name}_{task}" for task, name in keys), "rows_per_second"]
    lines: list[list[Any]] = [[*head, "best", "state", "reason", "folder"]]
    for row in rows:
        figures = [row.figure(task, name) for task, name in keys]
        leads = [task for task in lowest if _leads(row, task, lowest)]
        line = [*row.job.swept.values(), *figures, row.metrics.get("rows_per_second")]
        lines.append([*line, " ".join(leads), row.state, row.reason, folder / row.job.name])
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()


def _cells(
    rows: Sequence[Row], mark: str, *, pad: str = "{}", reason: int | None = None
) -> list[list[str]]:
    lowest, tasks = best(rows), _tasks(rows)
    keys = [(task, name) for name in FIGURES for task in tasks]
    head = [*_swept(rows), *(pad.format(f"{FIGURES[name]} {task}") for task, name in keys)]
    lines = [[*head, "rows/s", "run"]]
    for row in rows:
        line = [*row.job.swept.values()]
        for task, name in keys:
            value = row.figure(task, name)
            leads = name == "ne" and _leads(row, task, lowest)
            cell = "-" if value is None else NUMBER.format(value)
            line.append((mark if leads else pad).format(cell))
        speed = row.metrics.get("rows_per_second")
        lines.append([*line, "-" if speed is None else f"{speed:,.0f}", _run(row, reason)])
    return lines


def _run(row: Row, length: int | None) -> str:
    """Return a job's folder, with its state where that is not simply finished."""
    if row.state == "finished":
        return row.job.name
    if row.state != "failed":
        return f"{row.job.name} ({row.state})"
    cut = row.reason if length is None or len(row.reason) <= length else row.reason[:length] + "..."
    return f"{row.job.name} FAILED: {cut}"


def _leads(row: Row, task: str, lowest: Mapping[str, float]) -> bool:
    return row.state == "finished" and row.figure(task, "ne") == lowest.get(task, -1.0)


def _swept(rows: Sequence[Row]) -> list[str]:
    return list(rows[0].job.swept)


def _tasks(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(task for row in rows for task in row.metrics.get("tasks", ())))
