"""The runs, the tables and the verdicts of a comparison of balancers on one model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mbrec.study import launch
from mbrec.study.contrast import Contrast, contrast, figures, single_task_figures
from mbrec.study.jobs import Job, Result
from mbrec.study.paired import Estimate, differences, estimate
from mbrec.study.verdict import Verdict, verdict
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

STATIC_GRID, TUNED = "static_grid", "static weights, tuned"
TUNING_RUNS = 1


def setting(word: str) -> Setting:
    """Return what a word of `balancers=[...]` stands for.

    >>> setting("multibalance+lr=1").overrides
    ('balancer=multibalance', 'balancer.lr=1')
    """
    name, *arguments = word.split("+")
    if name == "equal" and not arguments:
        return EQUAL
    return Setting(word, (f"balancer={name}", *(f"balancer.{text}" for text in arguments)))


@dataclass
class Comparison:
    """Balancers against equal weights and against single-task models.

    Attributes:
        world: the model and its data.
        balancers: words of the command line.
        seeds: of the runs.
        folder: of the runs.
        processes: ranks of each run.
        measure: measure what each balancer costs.
        results: of the jobs so far.
    """

    world: World
    balancers: Sequence[str]
    seeds: Sequence[int]
    folder: Path
    processes: int = 2
    measure: bool = True
    results: dict[Job, Result] = field(default_factory=dict)

    @property
    def tunes(self) -> bool:
        """Whether static weights are looked for; of a single task there are none."""
        return STATIC_GRID in self.balancers and len(self.world.tasks) > 1

    def train(self) -> None:
        """Train whatever is not done yet: first what chooses static weights, then the rest."""
        if self.tunes:
            candidates = [EQUAL, *static_grid(self.world.tasks)]
            jobs = [tuning_job(self.world, s, n) for n in range(TUNING_RUNS) for s in candidates]
            self.results |= launch.run(jobs, self.folder, processes=self.processes)
        settings = [*dict.fromkeys([EQUAL, *self.compared]), *single_task(self.world.tasks)]
        jobs = [job(self.world, one, seed) for seed in self.seeds for one in settings]
        if self.measure:
            jobs += [self._measuring(one) for one in self.compared]
        self.results |= launch.run(jobs, self.folder, processes=self.processes)

    @property
    def compared(self) -> list[Setting]:
        """The balancers, static weights as they were chosen."""
        found = []
        for word in self.balancers:
            if word != STATIC_GRID:
                found.append(setting(word))
            elif self.tunes:
                best = choose(self.world, static_grid(self.world.tasks), self.results, TUNING_RUNS)
                found.append(Setting(TUNED, best.overrides))
        return found

    def gains(self, one: Setting, *, over_single: bool = False) -> Contrast:
        """Return the NE gains of a setting over equal weights, or over single-task models."""
        base = self._single("ne") if over_single else self._figures(EQUAL, "ne")
        return contrast(base, self._figures(one, "ne"))

    def single_gains(self) -> Contrast:
        """Return the NE gains of single-task models over equal weights."""
        return contrast(self._figures(EQUAL, "ne"), self._single("ne"))

    def verdict(self, one: Setting) -> Verdict:
        """Return what may be said of a setting."""
        return verdict(self.gains(one), self.gains(one, over_single=True))

    def gauc(self, one: Setting) -> dict[str, Estimate]:
        """Return task -> difference of GAUC to equal weights; empty where none was asked for."""
        found = {}
        for task in self.world.tasks:
            base, new = (self._gauc(setting, task) for setting in (EQUAL, one))
            # Of a rare task no group may have both labels.
            if None not in (*base, *new):
                found[task] = estimate(differences(base, new))
        return found

    def _gauc(self, one: Setting, task: str) -> list[Any]:
        runs = [self.results[job(self.world, one, seed)] for seed in self.seeds]
        return [run.tasks.get(task, {}).get("gauc") for run in runs]

    def drop(self, one: Setting) -> Mapping[str, Any] | None:
        """Return median and interval of a setting's QPS drop, or None where there is none."""
        if not self.measure:
            return None
        found = self.results[self._measuring(one)].metrics.get("measurement")
        return None if found is None else found["qps_drop_percent"]

    def _measuring(self, one: Setting) -> Job:
        overrides = (*self.world.overrides, *one.overrides, "trainer.measure_overhead=true")
        return Job(f"{self.world.name}/overhead/{one.slug}", overrides)

    def _figures(self, one: Setting, name: str) -> dict[str, list[float]]:
        return figures(self.world, one, self.results, self.seeds, name)

    def _single(self, name: str) -> dict[str, list[float]]:
        return single_task_figures(self.world, self.results, self.seeds, name)
