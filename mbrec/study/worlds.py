"""What is compared on what: a data set with its tasks, settings that differ, and seeds."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mbrec.study.jobs import Job, Result
from mbrec.study.pages import slug

# Seeds of the runs that choose settings; none of them is compared.
FIRST_TUNING_SEED = 1000
# What a static weight is multiplied or divided by, against those of the other tasks.
STATIC_FACTOR = 4.0


@dataclass(frozen=True)
class World:
    """A data set and a model.

    Attributes:
        name: short, for folders.
        label: for readers.
        tasks: names, in row order.
        overrides: of the default configuration.
        tuning: more overrides for the runs that choose settings: rows that are not compared on.
    """

    name: str
    label: str
    tasks: tuple[str, ...]
    overrides: tuple[str, ...]
    tuning: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setting:
    """One of the things compared.

    Attributes:
        name: for readers; its letters and digits for folders.
        overrides: after those of the world.
        only: tasks to train, where not all.
    """

    name: str
    overrides: tuple[str, ...]
    only: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """The name as a folder."""
        return slug(self.name)


EQUAL = Setting("equal weights", ("balancer=equal",))


def single_task(tasks: Sequence[str]) -> list[Setting]:
    """Return K models of one task each."""
    return [Setting(f"single {task}", ("balancer=equal",), (task,)) for task in tasks]


def static_grid(tasks: Sequence[str]) -> list[Setting]:
    """Return 2 K static weights: each task in turn four times up, and four times down.

    >>> static_grid(["ctr", "cvr"])[0].overrides
    ('balancer=static', 'balancer.weights=[0.8,0.2]')
    """
    grid = []
    for factor, word in ((STATIC_FACTOR, "up"), (1 / STATIC_FACTOR, "down")):
        for task in tasks if len(tasks) > 2 or word == "up" else ():
            raw = [factor if other == task else 1.0 for other in tasks]
            weights = ",".join(f"{round(weight / sum(raw), 4):g}" for weight in raw)
            overrides = ("balancer=static", f"balancer.weights=[{weights}]")
            grid.append(Setting(f"static {task} {word}", overrides))
    return grid


def job(world: World, setting: Setting, seed: int) -> Job:
    """Return the run of a setting with a seed, which other settings share with their batches."""
    overrides = (*world.overrides, *setting.overrides, f"trainer.seed={seed}")
    return Job(f"{world.name}/{setting.slug}/seed_{seed}", overrides, setting.only)


def tuning_job(world: World, setting: Setting, number: int) -> Job:
    """Return a run by which settings are chosen: other seeds, and other rows if there are some."""
    seed = FIRST_TUNING_SEED + number
    overrides = (*world.overrides, *world.tuning, *setting.overrides, f"trainer.seed={seed}")
    return Job(f"{world.name}/tuning/{setting.slug}/seed_{seed}", overrides, setting.only)


def choose(
    world: World, settings: Sequence[Setting], results: Mapping[Job, Result], seeds: int
) -> Setting:
    """Return the setting with the least NE in its tuning runs, as a geometric mean of the tasks.

    So a per cent counts the same in each task. Where a guard ended a run of every setting, the
    first is returned, whose runs will tell.

    Args:
        world: of the runs.
        settings: to choose from.
        results: of their tuning runs.
        seeds: tuning runs of each.

    Raises:
        ValueError: if the evaluation rows have one label only.
    """
    scores = {}
    for setting in settings:
        found = [results[tuning_job(world, setting, number)] for number in range(seeds)]
        if not any(result.reason for result in found):
            every = [_ne(result, task) for result in found for task in world.tasks]
            scores[setting] = statistics.geometric_mean(every)
    return min(scores, key=lambda setting: scores[setting]) if scores else settings[0]


def _ne(result: Result, task: str) -> float:
    ne = result.tasks[task]["ne"]
    if ne is None:
        raise ValueError(
            f"expected both labels of {task} among the evaluation rows, to compute its NE, got one"
        )
    return ne
