"""The table of many jobs: their settings, state and figures, written as they end."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mbrec.files import atomic, sealed
from mbrec.job.check import SWEEP_TABLE as TABLE
from mbrec.job.status import NAME as STATUS
from mbrec.study.jobs import Job, read_result
from mbrec.study.pages import Table, decimals, mean_and_deviation

MARKDOWN = "sweep.md"
FIGURES = {"ne": "NE", "auc": "AUC"}
FIGURES_OVER_SEEDS = {"auc": "AUC", "ne": "NE", "calibration": "calibration"}
SEED = "trainer.seed"
# Characters of a reason on a terminal; the files have all of it.
MAX_REASON = 60
# States of a job that began, and was neither finished nor saved.
_BROKEN = ("starting", "running", "failed")


@dataclass(frozen=True)
class Row:
    """A job and its result.

    Attributes:
        folder: of the job, below that of the table.
        job: the job.
        state: finished; measurement (finished, and not to be compared); failed; interrupted; or
            waiting.
        reason: why it has failed.
        metrics: its metrics.json; empty before it has finished.
    """

    folder: str
    job: Job
    state: str
    reason: str
    metrics: Mapping[str, Any]

    def figure(self, task: str, name: str) -> float | None:
        """Return a figure of a task, if there is one."""
        return self.metrics.get("tasks", {}).get(task, {}).get(name)

    def leads(self, task: str, lowest: Mapping[str, float]) -> bool:
        """Return whether the job has the lowest NE of a task, of those that may be compared."""
        return self.state == "finished" and self.figure(task, "ne") == lowest.get(task, -1.0)


class RunTable:
    """Reads the folders of jobs, and writes their table.

    Args:
        folder: that the folders of the jobs are below.
        jobs: folder -> job, in order.

    Attributes:
        failures: folder -> why the job has failed, of those that have failed in this process.
        step: number of finished jobs, for `status.json`.
    """

    def __init__(self, folder: Path, jobs: Mapping[str, Job]) -> None:
        self._folder, self._jobs = folder, jobs
        self._finished: dict[str, Row] = {}
        self.failures: dict[str, str] = {}
        self.step = 0

    def to_do(self) -> list[str]:
        """Return the folders of the jobs that are not finished.

        Those that began and were neither finished nor saved come last: what ended them may do so
        again, and the others have not been tried.
        """
        self.rows()
        left = [name for name in self._jobs if name not in self._finished]
        return sorted(left, key=lambda name: self._state(name) in _BROKEN)

    def rows(self) -> list[Row]:
        """Return the jobs as they stand."""
        found = [
            self._finished.get(name) or self._row(name, job) for name, job in self._jobs.items()
        ]
        self.step = len(self._finished)
        return found

    def _row(self, name: str, job: Job) -> Row:
        if (result := read_result(self._folder / name)) is not None:
            measured = "measurement" in result.metrics
            state = "measurement" if measured else "finished" if result.metrics else "failed"
            reason = "" if result.metrics else result.reason
            self._finished[name] = Row(name, job, state, reason, result.metrics)
            return self._finished[name]
        if name in self.failures:
            return Row(name, job, "failed", self.failures[name], {})
        stopped = self._state(name) in ("resumable", "stopped")
        return Row(name, job, "interrupted" if stopped else "waiting", "", {})

    def _state(self, name: str) -> str:
        """Return the state in a run's `status.json`; empty where it has not begun."""
        path = self._folder / name / STATUS
        return str(sealed.read_json(path).get("state", "")) if path.exists() else ""

    def write(self) -> None:
        """Write the table into the folder, as Markdown and as CSV."""
        rows = self.rows()
        atomic.write_text(self._folder / MARKDOWN, markdown(rows))
        atomic.write_text(self._folder / TABLE, every_digit(rows, self._folder).csv)

    def __str__(self) -> str:
        rows = self.rows()
        found = _table(rows, lambda cell, leads: f"{cell}{'*' if leads else ' '}", MAX_REASON)
        return found.aligned(texts=len(_swept(rows)))


def best(rows: Sequence[Row]) -> dict[str, float]:
    """Return the lowest NE of each task among the jobs that may be compared."""
    found = {}
    for task in _tasks(rows):
        values = [row.figure(task, "ne") for row in rows if row.state == "finished"]
        if known := [value for value in values if value is not None]:
            found[task] = min(known)
    return found


def markdown(rows: Sequence[Row]) -> str:
    """Return the table as Markdown; the best NE of a task is bold.

    Where several seeds are swept, a second table has the means over them.
    """
    found = _table(rows, lambda cell, leads: f"**{cell}**" if leads else cell).markdown + "\n"
    if seeds := over_seeds(rows):
        found += f"\nMean ± standard deviation over seeds:\n\n{seeds.markdown}\n"
    return found


def over_seeds(rows: Sequence[Row]) -> Table | None:
    """Return figures as mean ± standard deviation over seeds; None where no seeds are swept."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        others = tuple(value for key, value in row.job.swept.items() if key != SEED)
        if SEED in row.job.swept and row.state == "finished":
            groups.setdefault(others, []).append(row)
    if max(map(len, groups.values()), default=0) < 2:
        return None
    others = [key for key in _swept(rows) if key != SEED]
    table = Table([*others, "task", *FIGURES_OVER_SEEDS.values(), "seeds"])
    for setting, members in groups.items():
        for task in _tasks(members):
            cells = [_mean(members, task, name) for name in FIGURES_OVER_SEEDS]
            table.add(*setting, task, *cells, str(len(members)))
    return table


def _mean(rows: Sequence[Row], task: str, name: str) -> str:
    values = [value for row in rows if (value := row.figure(task, name)) is not None]
    return mean_and_deviation(values) if len(values) == len(rows) else "-"


def every_digit(rows: Sequence[Row], folder: Path) -> Table:
    """Return the table with all digits, and the tasks whose best NE a job has."""
    lowest, keys = best(rows), _figures(rows)
    head = [*_swept(rows), *(f"{name}_{task}" for task, name in keys), "rows_per_second"]
    table = Table([*head, "best", "state", "reason", "folder"])
    for row in rows:
        numbers = [row.figure(*key) for key in keys] + [row.metrics.get("rows_per_second")]
        cells = ["" if number is None else str(number) for number in numbers]
        leads = " ".join(task for task in lowest if row.leads(task, lowest))
        where = str(folder / row.folder)
        table.add(*row.job.swept.values(), *cells, leads, row.state, row.reason, where)
    return table


def _table(
    rows: Sequence[Row], mark: Callable[[str, bool], str], max_reason: int | None = None
) -> Table:
    """Return the table for people.

    Args:
        rows: the jobs.
        mark: makes a cell of a number, and of whether it is the best NE of its task.
        max_reason: characters of a reason.
    """
    lowest, keys = best(rows), _figures(rows)
    heads = [mark(f"{FIGURES[name]} {task}", False) for task, name in keys]
    table = Table([*_swept(rows), *heads, "rows/s", "run"])
    for row in rows:
        cells = [*row.job.swept.values()]
        for task, name in keys:
            leads = name == "ne" and row.leads(task, lowest)
            cells.append(mark(decimals(row.figure(task, name)), leads))
        speed = row.metrics.get("rows_per_second")
        table.add(*cells, "-" if speed is None else f"{speed:,.0f}", _run(row, max_reason))
    return table


def _run(row: Row, max_reason: int | None) -> str:
    """Return a job's folder, with its state unless that is just finished."""
    if row.state == "finished":
        return row.folder
    if row.state != "failed":
        return f"{row.folder} ({row.state})"
    cut = max_reason is not None and len(row.reason) > max_reason
    return f"{row.folder} FAILED: {row.reason[:max_reason]}{'...' if cut else ''}"


def _swept(rows: Sequence[Row]) -> list[str]:
    return list(rows[0].job.swept)


def _tasks(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(task for row in rows for task in row.metrics.get("tasks", ())))


def _figures(rows: Sequence[Row]) -> list[tuple[str, str]]:
    return [(task, name) for name in FIGURES for task in _tasks(rows)]
