"""The runs and the figures of a comparison of balancers on one model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mbrec.study.benchmark import EQUAL, Benchmark, Setting, job, single_task, static_grid
from mbrec.study.estimate import Estimate, differences, estimate
from mbrec.study.gains import Gains
from mbrec.study.jobs import Job
from mbrec.study.study import Study

STATIC_GRID, TUNED = "static_grid", "static weights, tuned"


def setting(word: str) -> Setting:
    """Return the setting that a word of `balancers=[...]` stands for.

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
        benchmark: the model and its data.
        balancers: words of the command line.
        measure: measure the cost of each balancer.
    """

    benchmark: Benchmark
    balancers: Sequence[str]
    measure: bool = True

    @property
    def tunes(self) -> bool:
        """Whether static weights are tuned; a single task has none."""
        return STATIC_GRID in self.balancers and len(self.benchmark.tasks) > 1

    def train(self) -> None:
        """Train the runs that are not finished: those that choose static weights come first."""
        if self.tunes:
            self.run(self.tuning(self.benchmark, static_grid(self.benchmark.tasks)))
        settings = [EQUAL, *self.compared, *single_task(self.benchmark.tasks)]
        measured = [self._measuring(one) for one in self.compared] if self.measure else []
        self.run([*self.jobs(self.benchmark, settings), *measured])

    @property
    def compared(self) -> list[Setting]:
        """The balancers, with the static weights that were chosen."""
        found = []
        for word in self.balancers:
            if word != STATIC_GRID:
                found.append(setting(word))
            elif self.tunes:
                grid = static_grid(self.benchmark.tasks)
                found.append(self.tuned(self.benchmark, grid, TUNED))
        return found

    def gains(self, one: Setting, *, over_single: bool = False) -> Gains:
        """Return the NE gains of a setting over equal weights, or over single-task models."""
        gain = self.gain_over_single_task if over_single else self.gain
        return gain(self.benchmark, one)

    def gauc(self, one: Setting) -> dict[str, Estimate]:
        """Return task -> difference of GAUC to equal weights; empty without `group=COLUMN`."""
        found = {}
        for task in self.benchmark.tasks:
            base, new = (self._gauc(setting, task) for setting in (EQUAL, one))
            # A rare task may have no group with both labels.
            if None not in (*base, *new):
                found[task] = estimate(differences(base, new))
        return found

    def _gauc(self, one: Setting, task: str) -> list[Any]:
        runs = [self.results[job(self.benchmark, one, seed)] for seed in self.seeds]
        return [run.tasks.get(task, {}).get("gauc") for run in runs]

    def drop(self, one: Setting) -> Mapping[str, Any] | None:
        """Return median and interval of a setting's QPS drop, or None if it was not measured."""
        if not self.measure:
            return None
        found = self.results[self._measuring(one)].metrics.get("measurement")
        return None if found is None else found["qps_drop_percent"]

    def _measuring(self, one: Setting) -> Job:
        overrides = (*self.benchmark.overrides, *one.overrides, "trainer.measure_overhead=true")
        return Job(f"{self.benchmark.name}/overhead/{one.slug}", overrides)
