"""What a study trains: a list of jobs, each in a folder of its own, and what came of them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from mbrec.files.sealed import read_json, write_json

FAILURE = "failed.json"
# How the reason of a run begins that a guard has ended: the paper's NEX.
EXPLOSION = f"{FloatingPointError.__name__}:"


@dataclass(frozen=True)
class Job:
    """One run of a study: an ordinary training job.

    Attributes:
        name: readable, with slashes: the folder of the run, but for a digest of its settings.
        overrides: of the default configuration, as on the command line.
        only: the tasks to train of those that `overrides` select; empty: all.
    """

    name: str
    overrides: tuple[str, ...]
    only: tuple[str, ...] = ()

    @property
    def measures(self) -> bool:
        """Whether the job measures overhead, and is no run to compare."""
        return "trainer.measure_overhead=true" in self.overrides

    @property
    def folder(self) -> str:
        """Folder below the study's: other settings never meet the results of these.

        Nor do other versions, or other shipped configurations, which overrides are overrides of.
        """
        text = json.dumps([self.overrides, self.only, shipped()])
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


@cache
def shipped() -> str:
    """Return a digest of this version and of the configurations that it ships."""
    digest = hashlib.sha256(version("mbrec").encode())
    for path in sorted(Path(str(files("mbrec.configs"))).rglob("*.yaml")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Result:
    """What came of a job.

    Attributes:
        tasks: task -> figure -> value of the last evaluation; empty where a guard ended the job,
            and where it was a measurement.
        metrics: the whole of the run's metrics.json.
        reason: why a guard ended it, or why its evaluation has no figures; or empty.
    """

    tasks: dict[str, dict[str, float | None]]
    metrics: dict[str, Any]
    reason: str = ""


def load(folder: Path, job: Job) -> Result | None:
    """Return what came of a job below a study's folder, or None where it is not done; see `found`.

    Args:
        folder: of the study.
        job: one of its jobs.
    """
    return found(folder / job.folder)


def found(run: Path) -> Result | None:
    """Return what a job has left in its folder, or None where it is not done.

    Raises:
        ValueError: if a file there is not what a job leaves.
    """
    for name in ("metrics.json", FAILURE):
        if not (run / name).exists():
            continue
        again = f"remove {run} to run the job again"
        try:
            content = read_json(run / name)
        except ValueError as error:
            raise ValueError(f"{error}; {again}") from error
        if name == FAILURE and "reason" not in content:
            raise ValueError(f"{run / name}: expected the reason of a failure, got none; {again}")
        if name == FAILURE:
            return Result({}, {}, str(content["reason"]))
        tasks = content.get("tasks", {})
        return Result(tasks, content, _not_finite(tasks))
    return None


def _not_finite(tasks: dict[str, dict[str, float | None]]) -> str:
    """Return which tasks have predictions that are not finite; such a run is NEX as well."""
    rows = {task: n for task, figures in tasks.items() if (n := figures.get("not_finite"))}
    if not rows:
        return ""
    found = ", ".join(f"{task} ({n:,.0f} rows)" for task, n in rows.items())
    return f"evaluation rows without a finite prediction, by task: {found}"


def write_plan(path: Path, jobs: Sequence[Job]) -> None:
    """Write jobs, and their folders as they are called now, where their processes look."""
    write_json(path, {"jobs": [{**asdict(job), "folder": job.folder} for job in jobs]})


def read_plan(path: Path) -> list[tuple[Job, str]]:
    """Return what `write_plan` wrote: jobs, and their folders below the study's."""
    plan = read_json(path)["jobs"]
    return [(Job(j["name"], tuple(j["overrides"]), tuple(j["only"])), j["folder"]) for j in plan]
