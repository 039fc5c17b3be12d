"""The findings of a run as sentences, with no more than its figures support.

Medians are over the later half of the steps, where the weights have settled.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from mbrec.study.estimate import estimate
from mbrec.study.report.events import Events, Line

# Fewer positives among the rows that are scored: NE and AUC differ much between seeds.
FEW_POSITIVES = 1000
_SAME_WEIGHT = 1e-6
_HARDLY = 0.01
# Neighbouring steps are alike; blocks of them hardly.
_BLOCKS = 10
# How far predictions may be off on average before it is worth a sentence.
_MISCALIBRATED = 0.1


def figure(value: float) -> str:
    """Return a number with three digits that count.

    >>> [figure(v) for v in (0.21234, 1234.5, 4.0, 1.5e-7, 0.0)]
    ['0.212', '1,234', '4.00', '1.50e-07', '0']
    """
    if value == 0:
        return "0"
    size = abs(value)
    if size < 1e-3 or size >= 1e7:
        return f"{value:.2e}"
    return f"{value:,.0f}" if size >= 100 else f"{value:#.3g}"


def late_medians(lines: Mapping[str, Line]) -> dict[str, float]:
    """Return the median of each line over its later half."""
    return {name: float(np.median(line.last_half)) for name, line in lines.items()}


def of_losses(total: Line | None) -> list[str]:
    """Return the change of the summed loss."""
    if total is None or len(total) < 20:
        return []
    tenth = len(total) // 10
    first, last = (float(np.median(v)) for v in (total.values[:tenth], total.values[-tenth:]))
    if not first > 0 or not last > 0:
        return []
    change = 100 * (last / first - 1)
    return [
        f"The summed loss {'fell' if change < 0 else 'rose'} by {abs(change):.1f} %, from "
        f"{figure(first)} to {figure(last)} (medians of the first and the last tenth of the steps)."
    ]


def of_evaluations(lines: Mapping[str, Line]) -> list[str]:
    """Return which tasks were better before the end, by the NE of the evaluations."""
    parts = []
    for task, line in lines.items():
        best = int(line.values.argmin())
        if line.values[best] > 0 and len(line) - 1 - best >= 2:
            worse = 100 * (line.values[-1] / line.values[best] - 1)
            parts.append(
                f"{task} after step {line.steps[best]:,} (NE {line.values[best]:.4f}, at the end "
                f"{worse:.2f} % more)"
            )
    remedy = "checkpoint.best=TASK.ne keeps the best"
    return [f"Best before the end: {'; '.join(parts)}. {remedy}."] if parts else []


def of_results(figures: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the findings of the final evaluation for each task by itself."""
    useless = [f"{t} ({ne:.4f})" for t, f in figures.items() if (ne := f.get("ne", 0.0)) >= 1]
    biased = [
        f"{task} {100 * abs(off):.0f} % too {'many' if off > 0 else 'few'}"
        for task, found in figures.items()
        if abs(off := found.get("calibration", 1.0) - 1) > _MISCALIBRATED
    ]
    positives = {
        t: f["rate"] * f["count"] for t, f in figures.items() if {"rate", "count"} <= f.keys()
    }
    rare = [f"{task} ({n:,.0f})" for task, n in positives.items() if n < FEW_POSITIVES]
    lost = [f"{task} ({n:,.0f} rows)" for task, f in figures.items() if (n := f.get("not_finite"))]
    said = {
        "No figures, because of evaluation rows whose prediction is not finite": lost,
        "No better than the constant rate of these rows (NE of 1 or more)": useless,
        "Positives predicted": biased,
        f"Fewer than {FEW_POSITIVES:,} positives, so that figures differ noticeably from seed to "
        "seed": rare,
    }
    return [f"{what}: {', '.join(tasks)}." for what, tasks in said.items() if tasks]


def of_balance(events: Events, tasks: Sequence[str], balancer: str) -> list[str]:
    """Return which task dominated, its weight, and the effect of all weights."""
    norms = late_medians(events.by_task("grad_norm", tasks))
    # A method's own weight may be 0 where a prior is merged as well, or a norm divided by.
    merged = events.by_task("effective_weight", tasks) or events.by_task("weight", tasks)
    weights = late_medians(merged)
    if len(norms) == 1:
        return [f"There is one task ({tasks[0]}), and nothing to balance."]
    if not norms or min(norms.values()) <= 0:
        silent = [task for task, norm in norms.items() if norm <= 0]
        return [f"{task} had no gradient in half of the later steps." for task in silent]
    loud, quiet = max(norms, key=norms.__getitem__), min(norms, key=norms.__getitem__)
    apart = norms[loud] / norms[quiet]
    said = (
        f"{loud} had the largest gradient norm, {figure(apart)} times that of {quiet}, the "
        "smallest (medians over the later half of the steps)"
    )
    if loud in weights:
        said += f"; {_weight_of(loud, weights, balancer)}"
    found = [f"{said}."]
    weighted = late_medians(events.by_task("weighted_norm", tasks))
    if len(weighted) == len(norms) and min(weighted.values()) > 0:
        left = max(weighted.values()) / min(weighted.values())
        closer = "closer together" if left < 0.95 * apart else "further apart"
        closer = closer if not 0.95 * apart <= left <= 1.05 * apart else "about as far apart"
        found.append(
            f"Weighted, the largest norm is {figure(left)} times the smallest (unweighted: "
            f"{figure(apart)} times): the tasks are {closer}."
        )
    longest = max(abs(weights[task]) * norms[task] for task in weights) if weights else 0.0
    found += [
        f"{task} had a weight of {figure(weight)}: the shared part hardly learned from it."
        for task, weight in weights.items()
        # A small weight on a large gradient is what balancing is for.
        if abs(weight) < _HARDLY and abs(weight) * norms[task] < _HARDLY * longest
    ]
    return found


def _weight_of(task: str, weights: Mapping[str, float], balancer: str) -> str:
    least, most = min(weights.values()), max(weights.values())
    value = weights[task]
    if most - least < _SAME_WEIGHT:
        return f"{balancer} gave all tasks the same weight, {figure(value)}"
    if value == least:
        return f"{balancer} gave it the smallest weight, {figure(value)}"
    if value == most:
        return f"{balancer} gave it the largest weight, {figure(value)}"
    return (
        f"{balancer} gave it a weight of {figure(value)}; those of the others lie between "
        f"{figure(least)} and {figure(most)}"
    )


def of_cosines(cosines: Mapping[tuple[str, str], Line]) -> list[str]:
    """Return which pair of tasks is the most opposed, and how many are."""
    if not cosines:
        return []
    means = {pair: float(line.values.mean()) for pair, line in cosines.items()}
    worst = min(means, key=means.__getitem__)
    below = float((cosines[worst].values < 0).mean())
    a, b = worst
    said = (
        f"{a} and {b} have the lowest mean cosine, {means[worst]:+.3f}; it is negative in "
        f"{100 * below:.0f} % of the steps"
    )
    if len(cosines[worst]) < 2 * _BLOCKS:
        return [f"{said}. These are too few steps to tell it from noise."]
    opposed = sum(_is_opposed(line) for line in cosines.values())
    if not opposed:
        return [f"{said}. No pair's mean is below zero by more than its noise."]
    return [
        f"{said}. {opposed} of {len(means)} pairs have a mean below zero by more than its noise: "
        "they pull in opposite directions, and what helps one task costs the other."
    ]


def _is_opposed(cosine: Line) -> bool:
    """Return whether a 95% interval of the mean is below zero; blocks of steps are its sample."""
    if len(cosine) < 2 * _BLOCKS:
        return False
    blocks = np.array_split(cosine.values, _BLOCKS)
    return estimate([float(block.mean()) for block in blocks]).high < 0
