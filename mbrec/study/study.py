"""The runs of a study, and what their figures say of settings."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mbrec.study import launch
from mbrec.study.contrast import Contrast, contrast, figures, single_task_figures
from mbrec.study.jobs import Job, Result, load
from mbrec.study.worlds import EQUAL, Setting, World, choose, job, tuning_job

# Of each setting that is tried.
TUNING_RUNS = 1


@dataclass
class Study:
    """Trains jobs, and remembers what came of them.

    Attributes:
        folder: of all runs; the same folder goes on where an interrupted study stopped.
        seeds: of each setting's runs.
        processes: ranks of each run.
        results: of the jobs so far.
        trained: jobs that were not done already.
        total: jobs in all.
    """

    folder: Path
    seeds: Sequence[int]
    processes: int = field(default=2, kw_only=True)
    results: dict[Job, Result] = field(default_factory=dict, kw_only=True)
    trained: int = field(default=0, kw_only=True)
    total: int = field(default=0, kw_only=True)

    def run(self, jobs: Sequence[Job]) -> None:
        """Train those jobs that are not done yet."""
        self.trained += sum(load(self.folder, one) is None for one in dict.fromkeys(jobs))
        self.results |= launch.run(jobs, self.folder, processes=self.processes)
        self.total = len(self.results)

    def jobs(self, world: World, settings: Iterable[Setting]) -> list[Job]:
        """Return the runs of settings on a data set, seed by seed."""
        settings = list(dict.fromkeys(settings))
        return [job(world, setting, seed) for seed in self.seeds for setting in settings]

    def tuning(self, world: World, settings: Sequence[Setting]) -> list[Job]:
        """Return the runs by which one of some settings is chosen."""
        return [tuning_job(world, one, run) for run in range(TUNING_RUNS) for one in settings]

    def tuned(self, world: World, settings: Sequence[Setting], name: str) -> Setting:
        """Return the best setting of the tuning runs, by another name."""
        return Setting(name, choose(world, settings, self.results, TUNING_RUNS).overrides)

    def figures(self, world: World, setting: Setting, name: str) -> dict[str, list[float]]:
        """Return task -> a figure of each seed's run; see `contrast.figures`."""
        return figures(world, setting, self.results, self.seeds, name)

    def single_task_figures(self, world: World, name: str) -> dict[str, list[float]]:
        """Return task -> a figure of each seed's single-task model."""
        return single_task_figures(world, self.results, self.seeds, name)

    def gain(self, world: World, setting: Setting) -> Contrast:
        """Return the NE gains of a setting over equal weights."""
        return contrast(self.figures(world, EQUAL, "ne"), self.figures(world, setting, "ne"))

    def gain_over_single_task(self, world: World, setting: Setting) -> Contrast:
        """Return the NE gains of a setting over single-task models."""
        base = self.single_task_figures(world, "ne")
        return contrast(base, self.figures(world, setting, "ne"))

    def single_task_gain(self, world: World) -> Contrast:
        """Return the NE gains of K single-task models over equal weights."""
        return contrast(self.figures(world, EQUAL, "ne"), self.single_task_figures(world, "ne"))

    def explosions(self, jobs: Iterable[Job] | None = None) -> Mapping[str, str]:
        """Return run -> why it has no figures to compare: what NEX stands for in a table.

        A guard ended it, or its evaluation has rows without a finite prediction.

        Args:
            jobs: to look at; None: all.
        """
        chosen = self.results if jobs is None else jobs
        found = {one.name: self.results[one].reason for one in chosen}
        return {name: reason for name, reason in found.items() if reason}
