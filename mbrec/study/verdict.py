"""What may be said of a method: no difference is called real whose interval covers zero."""

from collections.abc import Mapping
from dataclasses import dataclass

from mbrec.study.contrast import EXPLODED, Contrast
from mbrec.study.paired import Estimate

BETTER, WORSE, UNKNOWN = "better", "worse", "no difference shown"


def judge(found: Estimate) -> str:
    """Return better, worse, or that no difference was shown.

    >>> from mbrec.study.paired import estimate
    >>> judge(estimate([0.1, -0.1])), judge(estimate([0.1, 0.1001]))
    ('no difference shown', 'better')
    """
    if not found.is_real:
        return UNKNOWN
    return BETTER if found.mean > 0 else WORSE


@dataclass(frozen=True)
class Verdict:
    """What a comparison says of a method.

    Attributes:
        against_equal: task -> better, worse or not shown, than equal weights; empty where a run
            exploded.
        transfer: task -> the same, than the task's own model.
        overall: in a sentence.
    """

    against_equal: dict[str, str]
    transfer: dict[str, str]
    overall: str

    @property
    def negative_transfer(self) -> list[str] | None:
        """Tasks that are worse than in a model of their own; None where a run exploded."""
        return self._transferred(WORSE)

    @property
    def positive_transfer(self) -> list[str] | None:
        """Tasks that are better than in a model of their own; None where a run exploded."""
        return self._transferred(BETTER)

    def _transferred(self, word: str) -> list[str] | None:
        found = [task for task, judged in self.transfer.items() if judged == word]
        return found if self.transfer else None


def verdict(against_equal: Contrast, against_single: Contrast) -> Verdict:
    """Return what two contrasts of a method say.

    Args:
        against_equal: gains over equal weights.
        against_single: gains over single-task models.
    """
    words = {task: judge(gain) for task, gain in against_equal.by_task.items()}
    transfer = {task: judge(gain) for task, gain in against_single.by_task.items()}
    if against_equal.exploded:
        return Verdict(words, transfer, f"{EXPLODED}: a guard ended a run")
    if against_equal.base_exploded:
        return Verdict(words, transfer, f"{EXPLODED} of equal weights: nothing to compare with")
    return Verdict(words, transfer, _overall(words))


def _overall(words: Mapping[str, str]) -> str:
    up = [task for task, word in words.items() if word == BETTER]
    down = [task for task, word in words.items() if word == WORSE]
    if up and down:
        return f"seesaw: {', '.join(up)} better, {', '.join(down)} worse"
    if up:
        return f"{', '.join(up)} better, no loss shown"
    if down:
        return f"{', '.join(down)} worse, no gain shown"
    return UNKNOWN
