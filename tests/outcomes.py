"""Made-up results of jobs, for tests of what is computed from them."""

import random
from collections.abc import Callable

from mbrec.study.jobs import EXPLOSION, Job, Result

NexIf = Callable[[Job], bool]


def outcome(job: Job, gain: float = 0.0, *, nex: bool = False) -> Result:
    """Return NE .9 less a gain in per cent and some noise that is the seed's alone."""
    if nex:
        return Result({}, {}, f"{EXPLOSION} step 7: made up")
    if "trainer.measure_overhead=true" in job.overrides:
        drop = {"median": 1.5, "low": 0.5, "high": 2.5}
        return Result({}, {"measurement": {"qps_drop_percent": drop}})
    noise = random.Random(str(job.overrides[-1])).uniform(-0.01, 0.01)
    # Not the folder, which other shipped configurations change.
    own = random.Random(repr((job.name, job.overrides, job.only))).uniform(-1e-4, 1e-4)
    tasks = job.only or TASKS
    ne = (0.9 + noise + own) * (1 - gain / 100)
    figures = {"ne": ne, "auc": 0.7, "excess_ne": ne - 0.8}
    return Result({task: dict(figures) for task in tasks}, {"parameters": PARAMETERS})


TASKS = ("ctr", "cvr", "conv_imp", "like", "share", "comment", "profile_enter", "long_view")
PARAMETERS = {"categorical": 900, "numerical": 10, "interaction": 60, "heads": 30}


class Launcher:
    """Takes the place of `mbrec.study.launch.run`.

    Args:
        gains: word in a job's overrides -> its gain in per cent.
        nex: which jobs explode.
    """

    def __init__(self, gains: dict[str, float], nex: NexIf = lambda job: False) -> None:
        self.gains, self.nex = gains, nex
        self.batches: list[list[Job]] = []

    def run(self, jobs, folder, *, processes):
        self.batches.append(list(jobs))
        return {job: outcome(job, self._gain(job), nex=self.nex(job)) for job in jobs}

    def _gain(self, job: Job) -> float:
        return sum(gain for word, gain in self.gains.items() if word in job.overrides)
