"""The runs of a study, and the gains of its settings."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mbrec.study import launch
from mbrec.study.benchmark import EQUAL, Benchmark, Setting, job, single_task, tuning_job
from mbrec.study.gains import Gains, compared
from mbrec.study.jobs import Job, Result, read_result


@dataclass
class Study:
    """Trains jobs, and remembers their results.

    Attributes:
        folder: of all runs; with the same folder an interrupted study resumes.
        seeds: of each setting's runs.
        processes: ranks of each run.
        results: of the jobs so far.
        trained: number of jobs that were not finished before.
        total: number of all jobs.
    """

    folder: Path
    seeds: Sequence[int]
    processes: int = field(default=2, kw_only=True)
    results: dict[Job, Result] = field(default_factory=dict, kw_only=True)
    trained: int = field(default=0, kw_only=True)
    total: int = field(default=0, kw_only=True)

    def run(self, jobs: Sequence[Job]) -> None:
        """Train the jobs that are not finished yet."""
        results = [read_result(self.folder / one.folder) for one in dict.fromkeys(jobs)]
        self.trained += results.count(None)
        self.results |= launch.run(jobs, self.folder, processes=self.processes)
        self.total = len(self.results)

    def jobs(self, benchmark: Benchmark, settings: Iterable[Setting]) -> list[Job]:
        """Return the runs of settings on a benchmark, seed by seed."""
        settings = list(dict.fromkeys(settings))
        return [job(benchmark, setting, seed) for seed in self.seeds for setting in settings]

    def tuning(self, benchmark: Benchmark, settings: Sequence[Setting]) -> list[Job]:
        """Return the runs by which one of some settings is chosen."""
        return [tuning_job(benchmark, one) for one in settings]

    def tuned(self, benchmark: Benchmark, settings: Sequence[Setting], name: str) -> Setting:
        """Return the setting with the lowest NE in its tuning run, under another name.

        NE is a geometric mean of the tasks, so that 1% counts the same in each task. Where a guard
        ended the runs of all settings, the first is returned: its compared runs will show that.

        Raises:
            ValueError: if the evaluation rows have one label only.
        """
        scores = {}
        for setting in settings:
            result = self.results[tuning_job(benchmark, setting)]
            if not result.reason:
                values = [_ne(result, task) for task in benchmark.tasks]
                scores[setting] = statistics.geometric_mean(values)
        chosen = min(scores, key=scores.__getitem__) if scores else settings[0]
        return Setting(name, chosen.overrides)

    def figures(self, benchmark: Benchmark, setting: Setting, name: str) -> dict[str, list[float]]:
        """Return task -> a figure of each seed's run, in their order; NaN where it has a `reason`.

        Raises:
            ValueError: if a run has no such figure.
        """
        found: dict[str, list[float]] = {task: [] for task in setting.only or benchmark.tasks}
        for seed in self.seeds:
            result = self.results[job(benchmark, setting, seed)]
            if "measurement" in result.metrics:
                raise ValueError(
                    f"expected a run to compare, got {setting.name}, seed {seed}, which measures "
                    "overhead: it trained in part without the hook"
                )
            for task, values in found.items():
                value = math.nan if result.reason else result.tasks[task].get(name)
                if value is None:
                    raise ValueError(
                        f"expected {name} of {task} in {setting.name}, seed {seed}: "
                        "its evaluation rows may have one label only"
                    )
                values.append(value)
        return found

    def single_task_figures(self, benchmark: Benchmark, name: str) -> dict[str, list[float]]:
        """Return task -> a figure of each seed's single-task model."""
        found: dict[str, list[float]] = {}
        for setting in single_task(benchmark.tasks):
            found |= self.figures(benchmark, setting, name)
        return found

    def gain(self, benchmark: Benchmark, setting: Setting) -> Gains:
        """Return the NE gains of a setting over equal weights."""
        base = self.figures(benchmark, EQUAL, "ne")
        return compared(base, self.figures(benchmark, setting, "ne"))

    def gain_over_single_task(self, benchmark: Benchmark, setting: Setting) -> Gains:
        """Return the NE gains of a setting over single-task models."""
        base = self.single_task_figures(benchmark, "ne")
        return compared(base, self.figures(benchmark, setting, "ne"))

    def single_task_gain(self, benchmark: Benchmark) -> Gains:
        """Return the NE gains of K single-task models over equal weights."""
        base = self.figures(benchmark, EQUAL, "ne")
        return compared(base, self.single_task_figures(benchmark, "ne"))

    def explosions(self, jobs: Iterable[Job] | None = None) -> Mapping[str, str]:
        """Return run -> why it has no figures to compare: the reason of each NEX in a table.

        A guard ended the run, or its evaluation has rows without a finite prediction.

        Args:
            jobs: to check; None: all.
        """
        chosen = self.results if jobs is None else jobs
        found = {one.name: self.results[one].reason for one in chosen}
        return {name: reason for name, reason in found.items() if reason}


def _ne(result: Result, task: str) -> float:
    ne = result.tasks[task]["ne"]
    if ne is None:
        raise ValueError(
            f"expected both labels of {task} among the evaluation rows, to compute its NE, got one"
        )
    return ne
