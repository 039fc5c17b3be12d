"""Where training stands, and what a trainer expects of the parts that save and show it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mbrec.metrics.outputs import Outputs
from mbrec.training.explosion_guard import Explosion

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


class Recorder(Protocol):
    """Keeps the figures of a run and shows them.

    Attributes:
        flushed: called at each writing.
    """

    flushed: Callable[[], None]

    @property
    def rows_per_second(self) -> float:
        """Speed of training so far."""
        ...

    def record(self, step: int, outputs: Outputs, rates: Mapping[str, float]) -> None:
        """Keep the figures of a step."""
        ...

    def skip(self, step: int, skipped: int) -> None:
        """Note that the batch of a step was left out, the `skipped`-th so far."""
        ...

    def flush(self) -> None:
        """Write what was recorded. Collective: every rank must call it."""
        ...

    def resume(self) -> None:
        """Continue to measure the speed of training, after something else."""
        ...

    def finish_training(self) -> None:
        """Write what is left, and finish the progress bar."""
        ...

    def evaluated(
        self,
        step: int,
        report: Mapping[str, Mapping[str, float | None]],
        lost: Mapping[str, float],
    ) -> None:
        """Write the figures of an evaluation, and its fractions of lost ids."""
        ...

    def measured(self, step: int, figures: Mapping[str, Mapping[str, float]]) -> None:
        """Write what a measurement of the hook has found."""
        ...

    def close(self) -> None:
        """Finish the files."""
        ...
