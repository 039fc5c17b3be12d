"""A setting against a baseline: NE gains by task, paired by seed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mbrec.study.jobs import Job, Result
from mbrec.study.paired import Estimate, estimate, gains, mean_of_tasks
from mbrec.study.worlds import Setting, World, job, single_task

EXPLODED = "NEX"


@dataclass(frozen=True)
class Contrast:
    """A setting against a baseline.

    Attributes:
        by_task: task -> gain in per cent; empty where a run exploded.
        average: of all tasks; None where a run exploded.
        exploded: runs that a guard ended.
        base_exploded: the same of the baseline; there is nothing to compare with then.
    """

    by_task: dict[str, Estimate]
    average: Estimate | None
    exploded: int = 0
    base_exploded: int = 0

    def text(self, task: str | None = None, digits: int = 3) -> str:
        """Return the gain of a task, or of all, or NEX.

        Args:
            task: None: the average.
            digits: after the point.
        """
        if self.average is None:
            return EXPLODED if self.exploded else f"{EXPLODED} of the baseline"
        return (self.average if task is None else self.by_task[task]).text(digits)


def figures(
    world: World, setting: Setting, results: Mapping[Job, Result], seeds: Sequence[int], name: str
) -> dict[str, list[float]]:
    """Return task -> a figure of each seed's run, in their order; NaN where it has a `reason`.

    Raises:
        ValueError: if a run has no such figure.
    """
    found: dict[str, list[float]] = {task: [] for task in setting.only or world.tasks}
    for seed in seeds:
        result = results[job(world, setting, seed)]
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


def single_task_figures(
    world: World, results: Mapping[Job, Result], seeds: Sequence[int], name: str
) -> dict[str, list[float]]:
    """Return task -> a figure of each seed's single-task model."""
    found: dict[str, list[float]] = {}
    for setting in single_task(world.tasks):
        found |= figures(world, setting, results, seeds, name)
    return found


def contrast(base: Mapping[str, Sequence[float]], new: Mapping[str, Sequence[float]]) -> Contrast:
    """Return the gains of `new` over `base`, paired by seed, for the tasks of both.

    Args:
        base: task -> NE of each seed.
        new: task -> NE of each seed.
    """
    tasks = [task for task in base if task in new]
    lost, base_lost = (max(map(_exploded, (by[t] for t in tasks))) for by in (new, base))
    if lost or base_lost:
        return Contrast({}, None, lost, base_lost)
    paired = {task: gains(base[task], new[task]) for task in tasks}
    average = estimate(mean_of_tasks(list(paired.values())))
    return Contrast({task: estimate(values) for task, values in paired.items()}, average)


def has_exploded(found: Mapping[str, Sequence[float]]) -> bool:
    """Return whether one of the runs that `figures` tells of was ended by a guard."""
    return any(_exploded(values) for values in found.values())


def _exploded(values: Sequence[float]) -> int:
    return sum(map(math.isnan, values))
