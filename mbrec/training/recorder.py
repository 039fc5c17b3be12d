"""What a trainer expects of a monitor, which belongs to a later package."""

from collections.abc import Callable, Mapping
from typing import Protocol

from mbrec.metrics.outputs import Outputs


class Recorder(Protocol):
    """Records the figures of a run and shows them.

    Attributes:
        flushed: called at each writing.
    """

    flushed: Callable[[], None]

    @property
    def rows_per_second(self) -> float:
        """Speed of training so far."""
        ...

    def record(self, step: int, outputs: Outputs, rates: Mapping[str, float]) -> None:
        """Record the figures of a step."""

    def skip(self, step: int, skipped: int) -> None:
        """Note that the batch of a step was left out, the `skipped`-th so far."""

    def flush(self) -> None:
        """Write what was recorded. Collective: every rank must call it."""

    def resume(self) -> None:
        """Continue to measure the speed of training, after something else."""

    def finish_training(self) -> None:
        """Write what is left, and finish the progress bar."""

    def evaluated(
        self,
        step: int,
        report: Mapping[str, Mapping[str, float | None]],
        lost: Mapping[str, float],
    ) -> None:
        """Write the figures of an evaluation, and its fractions of lost ids."""

    def measured(self, step: int, figures: Mapping[str, Mapping[str, float]]) -> None:
        """Write what a measurement of the hook found."""

    def close(self) -> None:
        """Finish the files."""
