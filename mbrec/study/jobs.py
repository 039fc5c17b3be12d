"""What a study or a sweep trains: jobs, each in a folder of its own, and their results."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from mbrec.files.sealed import read_json, write_json

FAILURE = "failed.json"
# How the reason of a run that a guard has ended begins: the paper's NEX.
EXPLOSION = f"{FloatingPointError.__name__}:"


@dataclass(frozen=True)
class Job:
    """An ordinary training job, one of many.

    Attributes:
        name: readable; slashes make folders.
        overrides: of the default configuration, as on the command line.
        only: the tasks to train of those that `overrides` select; empty: all.
        swept: setting -> value, for the settings in which the jobs of a sweep differ.
    """

    name: str
    overrides: tuple[str, ...]
    only: tuple[str, ...] = ()
    swept: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def measures(self) -> bool:
        """Whether the job measures overhead, and is no run to compare."""
        return "trainer.measure_overhead=true" in self.overrides

    @property
    def folder(self) -> str:
        """Folder below a study's: the name, and a digest of the settings.

        Results of other settings, of other versions and of other shipped configurations, which
        overrides are overrides of, are in other folders.
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
    """What a job left in its folder.

    Attributes:
        tasks: task -> figure -> value of the last evaluation; empty where a guard ended the job,
            and where it was a measurement.
        metrics: the whole of the run's metrics.json.
        reason: why a guard ended it, or why its evaluation has no figures; or empty.
    """

    tasks: dict[str, dict[str, float | None]]
    metrics: dict[str, Any]
    reason: str = ""


def read_result(run: Path) -> Result | None:
    """Return what a job left in its folder, or None if it is not finished.

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


def write_plan(path: Path, jobs: Iterable[Job]) -> None:
    """Write the jobs of a study, with the names that their folders have now."""
    write_json(path, {"jobs": {job.folder: asdict(job) for job in jobs}})


def read_plan(path: Path) -> dict[str, Job]:
    """Return what `write_plan` wrote: folder below the study's -> job."""
    jobs = read_json(path)["jobs"]
    return {folder: job_of(content) for folder, content in jobs.items()}


def job_of(content: Mapping[str, Any]) -> Job:
    """Return a job from its fields, as JSON has them."""
    lists = {name: tuple(content[name]) for name in ("overrides", "only")}
    return Job(**{**content, **lists})
