"""Where training stands, and what a trainer expects of whoever saves it."""

from dataclasses import dataclass
from typing import Any, Protocol

from mbrec.explosion import Explosion

History = list[dict[str, Any]]


@dataclass(frozen=True)
class Progress:
    """Where training stands, beside the tensors.

    Attributes:
        step: steps done.
        position: which rows of the epoch are unread.
        learning_rates: of the last step, by optimizer.
        history: the evaluations: {"step", "tasks"}.
        skipped: batches that were left out.
        levels: how each task stands for the explosion guard.
    """

    step: int
    position: dict[str, Any]
    learning_rates: dict[str, float]
    history: History
    skipped: int
    levels: dict[str, Any]


class Keeper(Protocol):
    """Saves a run. Every call is a collective."""

    def is_due(self, step: int) -> bool:
        """Return whether a periodic save is due after a step."""
        ...

    def save(self, progress: Progress, *, now: bool = False) -> None:
        """Save; in the background perhaps, or with `now` until it is on the disk."""
        ...

    def wait(self) -> None:
        """Wait for the save under way."""
        ...

    def evaluated(self, progress: Progress) -> None:
        """Take note of the last evaluation of a history; save if it is the best."""
        ...

    def is_enough(self, history: History) -> bool:
        """Return whether the evaluations have stopped to get better."""
        ...

    def roll_back(self, explosion: Explosion, *, load: bool) -> int | None:
        """Put aside what an explosion may have spoilt; load the last sound checkpoint.

        Args:
            explosion: the alarm.
            load: load it, if there is one.

        Returns:
            the step that was loaded, or None.
        """
        ...
