"""The sections about the tasks' gradients: norms, weights, cosines, conflicts.

Shapes: K tasks, W ranks.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mbrec.monitor import heat_map
from mbrec.study.report import markup, plots
from mbrec.study.report.curves import picture
from mbrec.study.report.events import Events, Line
from mbrec.study.report.findings import figure, late_medians, of_balance, of_cosines
from mbrec.study.report.markup import Section
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


def weights(run: Run) -> Section | None:
    """Return Figure 2 c-e of the paper, for this run: norms, weights, weighted norms."""
    events, tasks = run.events, run.tasks
    if not events.by_task("weight", tasks):
        return None
    norms = events.by_task("grad_norm", tasks)
    body = [
        markup.how(
            "Left: how loud each task is in the shared representation. Middle: the weights of "
            f"{run.balancer}. Right: both together, which is what the shared part is trained "
            "with. Balanced tasks lie close together on the right. (Figure 2 c-e of He et al. "
            "2024.)"
        ),
        markup.findings(of_balance(events, tasks, run.balancer)),
    ]
    if not norms:
        body.append(markup.warnings([_without(run)]))
    named = ", ".join(tasks)
    panels = plots.balance_panels(events, tasks)
    body.append(picture(panels, f"Gradient norms, weights and weighted norms of {named}"))
    body.append(markup.how("Medians over the later half of the steps:"))
    body.append(_medians(events, tasks))
    return Section("balance", "Gradient norms and weights", body)


def _without(run: Run) -> str:
    setting = run.setting("monitor.balance")
    why = " (monitor.balance=false)" if setting is False else ""
    return f"This run has kept no gradient norms and cosines{why}: only its weights are shown."


def _medians(events: Events, tasks: Sequence[str]) -> str:
    found = {tag: late_medians(events.by_task(tag, tasks)) for tag in _COLUMNS}
    if _are_same(found["weight"], found["effective_weight"]):
        found["effective_weight"] = {}
    found = {tag: values for tag, values in found.items() if values}
    rows = [
        [task, *(figure(values[task]) if task in values else "-" for values in found.values())]
        for task in tasks
    ]
    return markup.table(["task", *(_COLUMNS[tag] for tag in found)], rows)


def _are_same(first: Mapping[str, float], second: Mapping[str, float]) -> bool:
    pairs = [(first[task], second.get(task, float("nan"))) for task in first]
    return all(math.isclose(a, b, rel_tol=1e-6) for a, b in pairs)


def cosines(run: Run) -> Section | None:
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
    return Section(
        "cosines",
        "Conflicts between pairs of tasks",
        [
            markup.how(
                "1: two tasks want the same of the shared part; 0: they do not touch; below 0: "
                "what helps one hurts the other. Cosines of single batches are noisy: look at the "
                "medians, and at the matrix of means over all steps. A step in which one of the "
                "two has no gradient counts as 0."
            ),
            markup.findings(of_cosines(found)),
            picture([Panel(title, lines, level=0.0, noisy=True)], f"Cosines of {len(lines)} pairs"),
            markup.picture(
                png,
                (dots[0] / 100, dots[1] / 100),
                "Matrix of the mean cosines",
                "Mean cosine of each pair over all steps.",
            ),
        ],
    )


def conflicts(run: Run) -> Section | None:
    """Return how much the tasks conflict as a whole, where the run has kept that."""
    found = run.events.below("conflict")
    panels = [
        _panel("share of conflicting pairs", found, {"share": "share"}, (-0.03, 1.03)),
        _panel(
            "largest norm / smallest",
            found,
            {"dominance": "raw", "weighted_dominance": "weighted"},
        ),
        _panel(
            "distance to Pareto stationarity",
            found,
            {"stationarity_relative": "of the smallest norm"}
            if "stationarity_relative" in found
            else {"stationarity": "distance"},
            (-0.03, 1.03) if "stationarity_relative" in found else None,
        ),
        _panel("share of steps on a vertex", found, {"vertex": "vertex"}, (-0.03, 1.03)),
    ]
    panels = [panel for panel in panels if panel.lines]
    if not panels:
        return None
    return Section(
        "conflicts",
        "Conflict as a whole",
        [
            markup.how(
                "Conflicting pairs: those with a negative cosine. Dominance: the largest gradient "
                "norm over the smallest, before and after weighting; 1 is even. Stationarity: the "
                "length of the shortest weighted mean of the gradients, over the smallest "
                "gradient; at 0 (3e-4 is as good) no direction improves every task, at 1 that of "
                "the smallest gradient does. Vertex: steps in which one task has all of the "
                "weight, or another none."
            ),
            markup.findings(_of_conflicts(found)),
            picture(panels, f"{', '.join(p.title for p in panels)} over the steps", height=3.0),
        ],
    )


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


def rank_weights(run: Run) -> Section | None:
    """Return the weights that each rank would have chosen by itself, where they were kept."""
    by_task: dict[str, list[Line]] = {}
    for tag, line in run.events.below("rank_weight").items():
        _, _, task = tag.partition("/")
        by_task.setdefault(task, []).append(line)
    by_task = {task: by_task[task] for task in run.tasks if len(by_task.get(task, [])) > 1}
    found = {task: _spread(lines) for task, lines in by_task.items()}
    spreads = {task: line for task, line in found.items() if line is not None}
    if not spreads:
        return None
    rows = [
        [task, figure(min(late)), figure(max(late)), figure(float(np.median(spread.values)))]
        for task, spread in spreads.items()
        if (late := [float(np.median(line.last_half)) for line in by_task[task]])
    ]
    widest = max(spreads, key=lambda task: float(np.median(spreads[task].values)))
    told = float(np.median(spreads[widest].values))
    panel = Panel("largest less smallest weight of the ranks", spreads, from_zero=True)
    return Section(
        "ranks",
        "What each rank alone would have chosen",
        [
            markup.how(
                "Weights from each rank's own rows, in the state of the balancer that all share. "
                "They differ by chance; the hook balances with the gradients of the global batch, "
                "so that every rank uses the same."
            ),
            markup.findings(
                [f"{widest} differs the most between ranks, by {figure(told)} (median)."]
            ),
            picture([panel], "Spread of the weights over the ranks", height=2.8),
            markup.table(["task", "lowest of the ranks", "highest", "median spread"], rows),
        ],
    )


def _spread(lines: Sequence[Line]) -> Line | None:
    """Return the largest less the smallest of some lines, at the steps that all have."""
    points = [dict(zip(line.steps.tolist(), line.values.tolist(), strict=True)) for line in lines]
    steps = sorted(set.intersection(*map(set, points)))
    if not steps:
        return None
    values_WN = np.array([[found[step] for step in steps] for found in points])
    return Line(np.array(steps), values_WN.max(0) - values_WN.min(0))
