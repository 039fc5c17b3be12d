"""The runs behind the tables: each is trained once, whichever tables it appears in."""

from dataclasses import dataclass

from mbrec.study.benchmark import EQUAL, Setting, single_task, static_grid
from mbrec.study.benchmark import Benchmark as World
from mbrec.study.jobs import Job
from mbrec.study.study import Study
from research.paper.worlds import DEFAULTS, Size, Worlds

# What MultiBalance's tuning chooses from: as many of them as there are static weights to choose
# from, which are 2 K. results/readings.md says what each does.
MULTIBALANCE_GRID = [
    DEFAULTS,
    Setting("rate 1", ("balancer=multibalance", "balancer.lr=1")),
    Setting("no prior", ("balancer=multibalance", "balancer.prior_strength=0")),
    Setting("output w", ("balancer=multibalance", "balancer.prior_in_output=false")),
    Setting("anchor", ("balancer=multibalance", "balancer.ema=anchor", "balancer.ema_scope=both")),
    Setting("unit", ("balancer=multibalance", "balancer.ema=unit")),
    Setting("prior 1", ("balancer=multibalance", "balancer.prior_strength=1")),
    Setting("rate 5", ("balancer=multibalance", "balancer.lr=5")),
]


@dataclass
class Lab(Study):
    """A study of a reproduction's data sets.

    Attributes:
        size: how much is trained.
        worlds: the data sets.
    """

    size: Size
    worlds: Worlds

    def tuning_jobs(self, world: World) -> list[Job]:
        """Return the runs by which static weights and MultiBalance are tuned."""
        ours = self.tuning(world, self._multibalance_grid(world))
        return [*self.static_tuning_jobs(world), *ours]

    def static_tuning_jobs(self, world: World) -> list[Job]:
        """Return the runs by which static weights are tuned."""
        return self.tuning(world, self._static_grid(world))

    def tuned_static(self, world: World) -> Setting:
        """Return the best static weights of the tuning runs."""
        return self.tuned(world, self._static_grid(world), "Static weights, tuned")

    def tuned_multibalance(self, world: World) -> Setting:
        """Return the best setting of MultiBalance in the tuning runs."""
        return self.tuned(world, self._multibalance_grid(world), "MultiBalance, tuned")

    def _static_grid(self, world: World) -> list[Setting]:
        return static_grid(world.tasks)[: self.size.candidates]

    def _multibalance_grid(self, world: World) -> list[Setting]:
        return MULTIBALANCE_GRID[: len(self._static_grid(world))]

    def baselines(self, world: World) -> list[Setting]:
        """Return what every method has to be seen beside."""
        return [EQUAL, *single_task(world.tasks), self.tuned_static(world)]
