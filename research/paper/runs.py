"""The runs behind the pages: each is trained once, whichever pages it appears on."""

from dataclasses import dataclass

from mbrec.study.benchmark import EQUAL, Benchmark, Setting, single_task, static_grid
from mbrec.study.jobs import Job
from mbrec.study.study import Study
from research.paper import printed
from research.paper.data_sets import DataSets, Size

DEFAULTS = Setting("MultiBalance, mbrec's defaults", ("balancer=multibalance",))
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
METHODS = {
    "Uncertainty": "uncertainty",
    "PCGrad": "pcgrad",
    "Gradient Vaccine": "gradvac",
    "Gradient Drop": "graddrop",
    "DB-MTL": "dbmtl",
    "IMTLG": "imtlg",
}


def multibalance(rate: float, *more: str, name: str = "MultiBalance") -> Setting:
    """Return the paper's method in its likeliest reading, with a rate of the weights."""
    return Setting(name, ("balancer=multibalance_paper", f"balancer.lr={rate:g}", *more))


def methods(data_set: Benchmark) -> list[Setting]:
    """Return the methods of Table 3 in the paper's order, with its rates of the weights."""
    rate = printed.ADS_RATE if "cvr" in data_set.tasks else printed.FEEDS_RATE
    others = [Setting(name, (f"balancer={word}",)) for name, word in METHODS.items()]
    ours = multibalance(rate, "balancer.ema=off", name="MultiBalance remove EMA")
    return [*others, ours, multibalance(rate)]


@dataclass
class Runs(Study):
    """The runs of a reproduction.

    Attributes:
        size: how much is trained.
        data: the data sets.
    """

    size: Size
    data: DataSets

    def static_tuning_jobs(self, data_set: Benchmark) -> list[Job]:
        """Return the runs by which static weights are tuned."""
        return self.tuning(data_set, self._static_grid(data_set))

    def tuning_jobs(self, data_set: Benchmark) -> list[Job]:
        """Return the runs by which static weights and MultiBalance are tuned."""
        ours = self.tuning(data_set, self._multibalance_grid(data_set))
        return [*self.static_tuning_jobs(data_set), *ours]

    def tuned_static(self, data_set: Benchmark) -> Setting:
        """Return the best static weights of the tuning runs."""
        return self.tuned(data_set, self._static_grid(data_set), "Static weights, tuned")

    def tuned_multibalance(self, data_set: Benchmark) -> Setting:
        """Return the best setting of MultiBalance in the tuning runs."""
        return self.tuned(data_set, self._multibalance_grid(data_set), "MultiBalance, tuned")

    def _static_grid(self, data_set: Benchmark) -> list[Setting]:
        return static_grid(data_set.tasks)[: self.size.candidates]

    def _multibalance_grid(self, data_set: Benchmark) -> list[Setting]:
        return MULTIBALANCE_GRID[: len(self._static_grid(data_set))]

    def baselines(self, data_set: Benchmark) -> list[Setting]:
        """Return the settings that every method is compared with."""
        return [EQUAL, *single_task(data_set.tasks), self.tuned_static(data_set)]
