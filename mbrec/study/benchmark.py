"""What a study compares: a data set with a model, and settings that differ."""

from collections.abc import Sequence
from dataclasses import dataclass

from mbrec.study.jobs import Job
from mbrec.study.pages import slug

# Of the runs that choose settings; no compared run has it.
TUNING_SEED = 1000
# What a static weight is multiplied or divided by, against those of the other tasks.
STATIC_FACTOR = 4.0


@dataclass(frozen=True)
class Benchmark:
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
    """A balancer with its arguments, or another way to train, that is compared.

    Attributes:
        name: for readers; its letters and digits are for folders.
        overrides: after those of the benchmark.
        only: tasks to train, if not all.
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


def job(benchmark: Benchmark, setting: Setting, seed: int) -> Job:
    """Return the run of a setting; runs of other settings with this seed see the same batches."""
    overrides = (*benchmark.overrides, *setting.overrides, f"trainer.seed={seed}")
    return Job(f"{benchmark.name}/{setting.slug}/seed_{seed}", overrides, setting.only)


def tuning_job(benchmark: Benchmark, setting: Setting) -> Job:
    """Return the run by which a setting is chosen: with another seed, on other rows if given."""
    overrides = (*benchmark.overrides, *benchmark.tuning, *setting.overrides)
    overrides += (f"trainer.seed={TUNING_SEED}",)
    name = f"{benchmark.name}/tuning/{setting.slug}/seed_{TUNING_SEED}"
    return Job(name, overrides, setting.only)
