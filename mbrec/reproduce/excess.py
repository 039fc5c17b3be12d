"""Tables of excess NE over the Bayes optimum of simulated data, free of the noise of labels."""

import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from mbrec.report import events
from mbrec.reproduce.lab import Lab
from mbrec.study.contrast import EXPLODED, figures, has_exploded, single_task_figures
from mbrec.study.pages import Table
from mbrec.study.paired import Estimate, differences, estimate, mean_of_tasks
from mbrec.study.worlds import EQUAL, Setting, World, job

NOTES = (
    "Excess NE over the Bayes optimum, which the synthetic world knows; mean over seeds, lower is "
    "better. Differences to equal weights, negative is better, ± half a 95 % interval of the "
    "differences paired by seed; a star: zero is left out. Of many cells without any effect, one in"
    " twenty has a star.",
    "The weights are those of the update (w), as a mean and a standard deviation over the later "
    "half of the steps.",
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
    base = figures(world, EQUAL, lab.results, lab.seeds, "excess_ne")
    single = single_task_figures(world, lab.results, lab.seeds, "excess_ne")
    _add(table, "equal weights", base, base)
    _add(table, "single-task models", single, base)
    for setting in settings:
        found = figures(world, setting, lab.results, lab.seeds, "excess_ne")
        weights = ("", "") if has_exploded(found) else _weights(lab, world, setting)
        _add(table, setting.name, found, base, weights)
    return table


def _add(
    table: Table,
    name: str,
    found: Mapping[str, Sequence[float]],
    base: Mapping[str, Sequence[float]],
    weights: tuple[str, str] = ("", ""),
) -> None:
    if has_exploded(found) or has_exploded(base):
        table.add(name, EXPLODED, *[""] * (len(table.columns) - 2))
        return
    means = [f"{statistics.fmean(values):.4f}" for values in found.values()]
    lost = {task: differences(base[task], found[task]) for task in found}
    whole = mean_of_tasks(list(found.values()))
    average = estimate(mean_of_tasks(list(lost.values())))
    texts = [_text(estimate(values)) for values in lost.values()]
    table.add(name, f"{statistics.fmean(whole):.4f}", _text(average), *means, *texts, *weights)


def _text(found: Estimate) -> str:
    return "" if not found.mean and not found.half else found.text(4)


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
