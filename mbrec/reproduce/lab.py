"""The runs behind the tables: each is trained once, whichever tables it appears in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mbrec.reproduce.worlds import DEFAULTS, Size, Worlds
from mbrec.study import launch
from mbrec.study.contrast import Contrast, contrast, figures, single_task_figures
from mbrec.study.jobs import Job, Result
from mbrec.study.worlds import (
    EQUAL,
    Setting,
    World,
    choose,
    job,
    single_task,
    static_grid,
    tuning_job,
)

TUNING_RUNS = 1

# What MultiBalance's tuning chooses from: as many settings as the six static weights of three
# tasks. results/readings.md says what each does.
MULTIBALANCE_GRID = [
    DEFAULTS,
    Setting("rate 1", ("balancer=multibalance", "balancer.lr=1")),
    Setting("no prior", ("balancer=multibalance", "balancer.prior_strength=0")),
    Setting("output w", ("balancer=multibalance", "balancer.prior_in_output=false")),
    Setting("anchor", ("balancer=multibalance", "balancer.ema=anchor", "balancer.ema_scope=both")),
    Setting("unit", ("balancer=multibalance", "balancer.ema=unit")),
]


@dataclass
class Lab:
    """Runs jobs, and remembers what came of them.

    Attributes:
        folder: of all runs; the same folder goes on where an interrupted study stopped.
        size: how much is trained.
        worlds: the data sets.
        seeds: of each setting's runs.
        processes: ranks of each run.
        results: of the jobs so far.
    """

    folder: Path
    size: Size
    worlds: Worlds
    seeds: Sequence[int]
    processes: int = 2
    results: dict[Job, Result] = field(default_factory=dict)

    def run(self, jobs: Sequence[Job]) -> None:
        """Train those jobs that are not done yet."""
        self.results |= launch.run(jobs, self.folder, processes=self.processes)

    def jobs(self, world: World, settings: Sequence[Setting]) -> list[Job]:
        """Return the runs of settings on a data set, seed by seed."""
        return [job(world, setting, seed) for seed in self.seeds for setting in settings]

    def tuning_jobs(self, world: World) -> list[Job]:
        """Return the runs by which static weights and MultiBalance are tuned."""
        runs = range(TUNING_RUNS)
        others = [tuning_job(world, s, n) for n in runs for s in self._multibalance_grid]
        return [*self.static_tuning_jobs(world), *others]

    def static_tuning_jobs(self, world: World) -> list[Job]:
        """Return the runs by which static weights are tuned."""
        settings = [EQUAL, *self._static_grid(world)]
        return [tuning_job(world, s, number) for number in range(TUNING_RUNS) for s in settings]

    def tuned_static(self, world: World) -> Setting:
        """Return the best static weights of the tuning runs."""
        best = choose(world, self._static_grid(world), self.results, TUNING_RUNS)
        return Setting("Static weights, tuned", best.overrides)

    def tuned_multibalance(self, world: World) -> Setting:
        """Return the best setting of MultiBalance in the tuning runs."""
        best = choose(world, self._multibalance_grid, self.results, TUNING_RUNS)
        return Setting("MultiBalance, tuned", best.overrides)

    def _static_grid(self, world: World) -> list[Setting]:
        return static_grid(world.tasks)[: self.size.candidates]

    @property
    def _multibalance_grid(self) -> list[Setting]:
        return MULTIBALANCE_GRID[: self.size.candidates]

    def baselines(self, world: World) -> list[Setting]:
        """Return what every method has to be seen beside."""
        return [EQUAL, *single_task(world.tasks), self.tuned_static(world)]

    def ne(self, world: World, setting: Setting) -> Mapping[str, list[float]]:
        """Return task -> NE of each seed."""
        return figures(world, setting, self.results, self.seeds, "ne")

    def gain(self, world: World, setting: Setting) -> Contrast:
        """Return the NE gains of a setting over equal weights."""
        return contrast(self.ne(world, EQUAL), self.ne(world, setting))

    def single_task_gain(self, world: World) -> Contrast:
        """Return the NE gains of K single-task models over equal weights."""
        single = single_task_figures(world, self.results, self.seeds, "ne")
        return contrast(self.ne(world, EQUAL), single)
