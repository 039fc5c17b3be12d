"""Tables of excess NE over the Bayes optimum of simulated data, free of the noise of labels."""

import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from mbrec.study.benchmark import EQUAL, Setting, job
from mbrec.study.benchmark import Benchmark as World
from mbrec.study.estimate import Estimate, differences, estimate, mean_of_tasks, median_detectable
from mbrec.study.gains import EXPLODED, has_exploded
from mbrec.study.pages import Table
from mbrec.study.report import events
from research.paper.runs import Lab

NOTES = (
    "Excess NE over the Bayes optimum, which the synthetic world knows; mean over seeds, lower is "
    "better. Differences to equal weights, negative is better, ± half a 95 % interval of the "
    "differences paired by seed; a star: zero is left out. Of many cells without any effect, one in"
    " twenty has a star.",
    "The smallest detectable difference is what these seeds would have shown with probability 0.8, "
    "as a median over the rows.",
    "The weights are those of the update (w), as a mean and a standard deviation over the later "
    "half of the steps.",
)

MERGED = (
    "With the prior in the output the gradients are merged with (w + lam w0) / (1 + lam), w0 = 1/K "
    "each; otherwise with w."
)


def excess_table(lab: Lab, world: World, settings: Sequence[Setting]) -> Table:
    """Return excess NE by task, and its differences to equal weights, a row for each setting."""
    table = Table(
        [
            "setting",
            "mean",
            "against equal",
            *world.tasks,
            *(f"{task} against equal" for task in world.tasks),
            "w, mean",
            "w, sd",
        ]
    )
    base = lab.figures(world, EQUAL, "excess_ne")
    single = lab.single_task_figures(world, "excess_ne")
    _add(table, "equal weights", base, base)
    _add(table, "single-task models", single, base)
    ended = [] if has_exploded(single) else [single]
    for setting in settings:
        found = lab.figures(world, setting, "excess_ne")
        weights = ("", "") if has_exploded(found) else _weights(lab, world, setting)
        _add(table, setting.name, found, base, weights)
        ended += [] if has_exploded(found) else [found]
    if not has_exploded(base):
        table.add(*_detectable([_against(found, base) for found in ended], len(world.tasks)))
    return table


def _detectable(rows: Sequence[Sequence[Estimate]], num_tasks: int) -> list[str]:
    """Return the row with the smallest detectable differences, medians over the other rows."""
    least = [median_detectable(column, digits=4) for column in zip(*rows, strict=True)]
    least = least or ["-"] * (1 + num_tasks)
    return ["smallest detectable difference", "", least[0], *[""] * num_tasks, *least[1:], "", ""]


def _add(
    table: Table,
    name: str,
    found: Mapping[str, Sequence[float]],
    base: Mapping[str, Sequence[float]],
    weights: tuple[str, str] = ("", ""),
) -> None:
    if has_exploded(found):
        table.add(name, EXPLODED, *[""] * (len(table.columns) - 2))
        return
    means = [f"{statistics.fmean(values):.4f}" for values in found.values()]
    whole = statistics.fmean(mean_of_tasks(list(found.values())))
    against = [""] * (1 + len(found))
    if has_exploded(base):
        against[0] = f"{EXPLODED} of the baseline"
    elif found is not base:
        against = [one.text(4) for one in _against(found, base)]
    table.add(name, f"{whole:.4f}", against[0], *means, *against[1:], *weights)


def _against(
    found: Mapping[str, Sequence[float]], base: Mapping[str, Sequence[float]]
) -> list[Estimate]:
    """Return the differences to the baseline: the mean of the tasks, then each."""
    lost = {task: differences(base[task], found[task]) for task in found}
    return [estimate(mean_of_tasks(list(lost.values()))), *map(estimate, lost.values())]


def _weights(lab: Lab, world: World, setting: Setting) -> tuple[str, str]:
    """Return mean and deviation of the weights over the later half of the steps of all seeds."""
    means, deviations = [], []
    for seed in lab.seeds:
        run = lab.folder / job(world, setting, seed).folder
        lines = events.read(run / "tensorboard").by_task("weight", world.tasks)
        late = np.array([line.last_half for line in lines.values()])
        means.append(late.mean(1))
        deviations.append(late.std(1))

    def text(rows: list[np.ndarray]) -> str:
        return ", ".join(f"{v:.2f}" for v in np.mean(rows, axis=0))

    return text(means), text(deviations)
