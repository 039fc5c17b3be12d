"""A setting against a baseline: NE gains by task, paired by seed, and what may be said of them.

A difference is called real only if its 95% interval excludes zero.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mbrec.study.estimate import Estimate, estimate, mean_of_tasks, ne_gains

EXPLODED = "NEX"
BETTER, WORSE, UNKNOWN = "better", "worse", "no difference shown"


@dataclass(frozen=True)
class Gains:
    """A setting against a baseline.

    Attributes:
        by_task: task -> NE gain in per cent; empty where a run exploded.
        average: over all tasks; None where a run exploded.
        exploded: number of runs that a guard ended.
        base_exploded: the same for the baseline; there is nothing to compare with then.
    """

    by_task: dict[str, Estimate]
    average: Estimate | None
    exploded: int = 0
    base_exploded: int = 0

    def text(self, task: str | None = None, digits: int = 3) -> str:
        """Return the gain of a task, or the average, or NEX.

        Args:
            task: None: the average.
            digits: after the point.
        """
        if self.average is None:
            return EXPLODED if self.exploded else f"{EXPLODED} of the baseline"
        return (self.average if task is None else self.by_task[task]).text(digits)

    @property
    def judged(self) -> dict[str, str]:
        """Task -> better, worse, or that no difference was shown; empty where a run exploded."""
        return {task: judge(gain) for task, gain in self.by_task.items()}

    def tasks_that_are(self, word: str) -> list[str] | None:
        """Return the tasks that are better, or worse; None where a run exploded."""
        judged = self.judged
        return [task for task in judged if judged[task] == word] if judged else None

    @property
    def verdict(self) -> str:
        """The gains over equal weights in one sentence."""
        if self.exploded:
            return f"{EXPLODED}: a guard ended a run"
        if self.base_exploded:
            return f"{EXPLODED} of equal weights: nothing to compare with"
        up, down = (", ".join(self.tasks_that_are(word) or ()) for word in (BETTER, WORSE))
        if up and down:
            return f"seesaw: {up} better, {down} worse"
        if up:
            return f"{up} better, no loss shown"
        return f"{down} worse, no gain shown" if down else UNKNOWN


def judge(found: Estimate) -> str:
    """Return better, worse, or that no difference was shown.

    >>> judge(estimate([0.1, -0.1])), judge(estimate([0.1, 0.1001]))
    ('no difference shown', 'better')
    """
    if not found.is_real:
        return UNKNOWN
    return BETTER if found.mean > 0 else WORSE


def compared(base: Mapping[str, Sequence[float]], new: Mapping[str, Sequence[float]]) -> Gains:
    """Return the gains of `new` over `base`, paired by seed, for the tasks of both.

    Args:
        base: task -> NE of each seed.
        new: task -> NE of each seed.
    """
    tasks = [task for task in base if task in new]
    lost, base_lost = (max(map(_exploded, (by[t] for t in tasks))) for by in (new, base))
    if lost or base_lost:
        return Gains({}, None, lost, base_lost)
    paired = {task: ne_gains(base[task], new[task]) for task in tasks}
    average = estimate(mean_of_tasks(list(paired.values())))
    return Gains({task: estimate(values) for task, values in paired.items()}, average)


def has_exploded(found: Mapping[str, Sequence[float]]) -> bool:
    """Return whether a guard ended one of the runs whose figures these are."""
    return any(_exploded(values) for values in found.values())


def _exploded(values: Sequence[float]) -> int:
    return sum(map(math.isnan, values))
