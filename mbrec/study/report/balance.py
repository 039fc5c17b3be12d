"""The views of the tasks' gradients: norms, weights, cosines, conflicts.

Shapes: K tasks, W ranks.
"""

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np

from mbrec.monitor import heat_map
from mbrec.study.report import plots
from mbrec.study.report.events import Line
from mbrec.study.report.findings import figure, late_medians, of_balance, of_cosines
from mbrec.study.report.plots import Panel
from mbrec.study.report.run_folder import Run

# More lines cannot be told apart.
_MOST_PAIRS = 10
# A row of the table of medians: tag and heading.
_COLUMNS = {
    "grad_norm": "gradient norm",
    "weight": "weight",
    "effective_weight": "weight on the raw gradient",
    "weighted_norm": "weighted norm",
}


def weights(run: Run) -> dict[str, Any] | None:
    """Return Figure 2 c-e of the paper, for this run: norms, weights, weighted norms."""
    events, tasks = run.events, run.tasks
    if not events.by_task("weight", tasks):
        return None
    why = " (monitor.balance=false)" if run.setting("monitor.balance") is False else ""
    without = f"This run has kept no gradient norms and cosines{why}: only its weights are shown."
    alt = f"Gradient norms, weights and weighted norms of {', '.join(tasks)}"
    medians = {tag: late_medians(events.by_task(tag, tasks)) for tag in _COLUMNS}
    if _are_same(medians["weight"], medians["effective_weight"]):
        medians["effective_weight"] = {}
    medians = {tag: values for tag, values in medians.items() if values}
    return {
        "balancer": run.balancer,
        "findings": of_balance(events, tasks, run.balancer),
        "warnings": [] if events.by_task("grad_norm", tasks) else [without],
        "picture": plots.picture(plots.balance_panels(events, tasks), alt),
        "headers": ["task", *(_COLUMNS[tag] for tag in medians)],
        "rows": [
            [task, *(figure(found[task]) if task in found else "-" for found in medians.values())]
            for task in tasks
        ],
    }


def _are_same(first: Mapping[str, float], second: Mapping[str, float]) -> bool:
    pairs = [(first[task], second.get(task, float("nan"))) for task in first]
    return all(math.isclose(a, b, rel_tol=1e-6) for a, b in pairs)


def cosines(run: Run) -> dict[str, Any] | None:
    """Return the cosines of the tasks' gradients, and their means as a matrix."""
    found, tasks = run.events.cosines(run.tasks), run.tasks
    if not found:
        return None
    means = {pair: float(line.values.mean()) for pair, line in found.items()}
    lowest = sorted(found, key=means.__getitem__)[:_MOST_PAIRS]
    lines = {f"{a} - {b}": found[a, b] for a, b in lowest}
    which = f"the {_MOST_PAIRS} lowest of {len(found)} pairs" if len(found) > len(lines) else ""
    title = f"cosine of the gradients of two tasks{which and f', {which}'}"
    values_KK = np.full((len(tasks), len(tasks)), np.nan)
    for (a, b), mean in means.items():
        i, j = tasks.index(a), tasks.index(b)
        values_KK[i, j] = values_KK[j, i] = mean
    png, *dots = heat_map.draw(values_KK.tolist(), [plots.short(task) for task in tasks])
    panel = Panel(title, lines, level=0.0, noisy=True)
    return {
        "findings": of_cosines(found),
        "picture": plots.picture([panel], f"Cosines of {len(lines)} pairs"),
        "matrix": plots.embedded(
            png,
            (dots[0] / 100, dots[1] / 100),
            "Matrix of the mean cosines",
            "Mean cosine of each pair over all steps.",
        ),
    }


def conflicts(run: Run) -> dict[str, Any] | None:
    """Return how much the tasks conflict as a whole, if the run has kept that."""
    found = run.events.below("conflict")
    share, distance = (-0.03, 1.03), {"stationarity": "distance"}
    if relative := "stationarity_relative" in found:
        distance = {"stationarity_relative": "of the smallest norm"}
    ratios = {"dominance": "raw", "weighted_dominance": "weighted"}
    panels = [
        _panel("share of conflicting pairs", found, {"share": "share"}, share),
        _panel("largest norm / smallest", found, ratios),
        _panel("distance to Pareto stationarity", found, distance, share if relative else None),
        _panel("share of steps on a vertex", found, {"vertex": "vertex"}, share),
    ]
    panels = [panel for panel in panels if panel.lines]
    if not panels:
        return None
    alt = f"{', '.join(panel.title for panel in panels)} over the steps"
    return {
        "findings": _of_conflicts(found),
        "picture": plots.picture(panels, alt, height=3.0),
    }


def _panel(
    title: str,
    found: Mapping[str, Line],
    names: Mapping[str, str],
    limits: tuple[float, float] | None = None,
) -> Panel:
    lines = {label: found[name] for name, label in names.items() if name in found}
    # A share of three pairs has but four values, and a median jumps between them.
    by = np.mean if "share" in names else np.median
    return Panel(title, lines, limits=limits, from_zero=True, noisy=True, by=by)


def _of_conflicts(found: Mapping[str, Line]) -> list[str]:
    late, said = late_medians(found), []
    means = {name: float(line.last_half.mean()) for name, line in found.items()}
    if "share" in means:
        said.append(
            f"On average {100 * means['share']:.0f} % of the pairs conflict in a step (later half)."
        )
    if "dominance" in late:
        after = late.get("weighted_dominance")
        weighted = "" if after is None else f", and {figure(after)} times after weighting"
        said.append(
            f"The largest norm is {figure(late['dominance'])} times the smallest{weighted} "
            "(medians of the later half)."
        )
    if "stationarity_relative" in late:
        length = figure(late["stationarity_relative"])
        said.append(
            f"The shortest weighted mean of the gradients has {length} times the length of the "
            "smallest gradient (median of the later half)."
        )
    if means.get("vertex"):
        said.append(
            f"In {100 * means['vertex']:.0f} % of the later steps one task had all of the weight, "
            "or another none: the balancer ignores a task there."
        )
    return said


def rank_weights(run: Run) -> dict[str, Any] | None:
    """Return the weights that each rank would have chosen by itself, if they were kept."""
    by_task: dict[str, list[Line]] = {}
    for tag, line in run.events.below("rank_weight").items():
        _, _, task = tag.partition("/")
        by_task.setdefault(task, []).append(line)
    by_task = {task: by_task[task] for task in run.tasks if len(by_task.get(task, [])) > 1}
    found = {task: _spread(lines) for task, lines in by_task.items()}
    spreads = {task: line for task, line in found.items() if line is not None}
    if not spreads:
        return None
    medians = {task: float(np.median(line.values)) for task, line in spreads.items()}
    rows = []
    for task, median in medians.items():
        late = [float(np.median(line.last_half)) for line in by_task[task]]
        rows.append([task, figure(min(late)), figure(max(late)), figure(median)])
    widest = max(medians, key=medians.__getitem__)
    said = f"{widest} differs the most between ranks, by {figure(medians[widest])} (median)."
    panel = Panel("largest less smallest weight of the ranks", spreads, from_zero=True)
    return {
        "findings": [said],
        "picture": plots.picture([panel], "Spread of the weights over the ranks", height=2.8),
        "rows": rows,
    }


def _spread(lines: Sequence[Line]) -> Line | None:
    """Return the largest less the smallest of some lines, at the steps that all have."""
    steps_N = reduce(np.intersect1d, [line.steps for line in lines])
    if not len(steps_N):
        return None
    values_WN = np.array([line.values[np.isin(line.steps, steps_N)] for line in lines])
    return Line(steps_N, values_WN.max(0) - values_WN.min(0))
