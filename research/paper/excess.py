"""Tables of excess NE over the Bayes optimum of simulated data, free of the noise of labels."""

import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from mbrec.study.benchmark import EQUAL, Benchmark, Setting, job
from mbrec.study.estimate import Estimate, differences, estimate, mean_of_tasks, median_detectable
from mbrec.study.gains import EXPLODED, has_exploded
from mbrec.study.pages import Table
from mbrec.study.report import events
from research.paper.runs import Runs

NOTES = (
    "Excess NE over the Bayes optimum, which the synthetic log knows; mean over seeds, lower is "
    "better. Differences to equal weights, negative is better, ± half a 95% interval of the "
    "differences paired by seed; a star: it excludes zero. Of many cells without any effect, one "
    "in twenty has a star.",
    "The smallest detectable difference is what these seeds would have shown with probability 0.8, "
    "as a median over the rows.",
    "The weights are those of the update (w), as a mean and a standard deviation over the later "
    "half of the steps.",
)
MERGED = (
    "With the prior in the output the gradients are merged with (w + lam w0) / (1 + lam), w0 = 1/K "
    "each; otherwise with w."
)

ByTask = Mapping[str, Sequence[float]]


def excess_table(runs: Runs, data_set: Benchmark, settings: Sequence[Setting]) -> Table:
    """Return excess NE by task, and its differences to equal weights, a row for each setting."""
    tasks = data_set.tasks
    against = [f"{task} against equal" for task in tasks]
    table = Table(["setting", "mean", "against equal", *tasks, *against, "w, mean", "w, sd"])
    base = runs.figures(data_set, EQUAL, "excess_ne")
    found = {
        "equal weights": base,
        "single-task models": runs.single_task_figures(data_set, "excess_ne"),
        **{setting.name: runs.figures(data_set, setting, "excess_ne") for setting in settings},
    }
    weights = {
        setting.name: _weights(runs, data_set, setting)
        for setting in settings
        if not has_exploded(found[setting.name])
    }
    lost = {
        name: excess_over(base, by_task)
        for name, by_task in found.items()
        if by_task is not base and not has_exploded(by_task) and not has_exploded(base)
    }
    for name, by_task in found.items():
        table.add(name, *_cells(by_task, base, lost.get(name)), *weights.get(name, ("", "")))
    if not has_exploded(base):
        columns = [[each[i] for each in lost.values()] for i in range(1 + len(tasks))]
        first, *rest = (median_detectable(column, digits=4) for column in columns)
        blank = [""] * len(tasks)
        table.add("smallest detectable difference", "", first, *blank, *rest, "", "")
    return table


def excess_over(base: ByTask, found: ByTask) -> list[Estimate]:
    """Return the differences to a baseline, paired by seed: the mean of the tasks, then each."""
    lost = [differences(base[task], found[task]) for task in found]
    return [estimate(mean_of_tasks(lost)), *map(estimate, lost)]


def _cells(found: ByTask, base: ByTask, lost: Sequence[Estimate] | None) -> list[str]:
    """Return the cells of a row between its name and its weights."""
    if has_exploded(found):
        return [EXPLODED, *[""] * (1 + 2 * len(found))]
    means = [f"{statistics.fmean(values):.4f}" for values in found.values()]
    first, *rest = [one.text(4) for one in lost] if lost else [""] * (1 + len(found))
    if has_exploded(base):
        first = f"{EXPLODED} of the baseline"
    whole = statistics.fmean(mean_of_tasks(list(found.values())))
    return [f"{whole:.4f}", first, *means, *rest]


def _weights(runs: Runs, data_set: Benchmark, setting: Setting) -> tuple[str, str]:
    """Return mean and deviation of the weights over the later half of the steps of all seeds."""
    means, deviations = [], []
    for seed in runs.seeds:
        run = runs.folder / job(data_set, setting, seed).folder
        lines = events.read(run / "tensorboard").by_task("weight", data_set.tasks)
        late = np.array([line.last_half for line in lines.values()])
        means.append(late.mean(1))
        deviations.append(late.std(1))

    def text(rows: list[np.ndarray]) -> str:
        return ", ".join(f"{v:.2f}" for v in np.mean(rows, axis=0))

    return text(means), text(deviations)
