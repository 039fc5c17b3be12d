"""The runs, the tables and the verdicts of a comparison of balancers on one model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mbrec.study.contrast import Contrast
from mbrec.study.jobs import Job
from mbrec.study.paired import Estimate, differences, estimate
from mbrec.study.study import Study
from mbrec.study.verdict import Verdict, verdict
from mbrec.study.worlds import EQUAL, Setting, World, job, single_task, static_grid

STATIC_GRID, TUNED = "static_grid", "static weights, tuned"


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
class Comparison(Study):
    """Balancers against equal weights and against single-task models.

    Attributes:
        world: the model and its data.
        balancers: words of the command line.
        measure: measure what each balancer costs.
    """

    world: World
    balancers: Sequence[str]
    measure: bool = True

    @property
    def tunes(self) -> bool:
        """Whether static weights are looked for; of a single task there are none."""
        return STATIC_GRID in self.balancers and len(self.world.tasks) > 1

    def train(self) -> None:
        """Train whatever is not done yet: first what chooses static weights, then the rest."""
        if self.tunes:
            self.run(self.tuning(self.world, static_grid(self.world.tasks)))
        settings = [EQUAL, *self.compared, *single_task(self.world.tasks)]
        measured = [self._measuring(one) for one in self.compared] if self.measure else []
        self.run([*self.jobs(self.world, settings), *measured])

    @property
    def compared(self) -> list[Setting]:
        """The balancers, static weights as they were chosen."""
        found = []
        for word in self.balancers:
            if word != STATIC_GRID:
                found.append(setting(word))
            elif self.tunes:
                found.append(self.tuned(self.world, static_grid(self.world.tasks), TUNED))
        return found

    def gains(self, one: Setting, *, over_single: bool = False) -> Contrast:
        """Return the NE gains of a setting over equal weights, or over single-task models."""
        gain = self.gain_over_single_task if over_single else self.gain
        return gain(self.world, one)

    def single_gains(self) -> Contrast:
        """Return the NE gains of single-task models over equal weights."""
        return self.single_task_gain(self.world)

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
