"""What a step leaves for metrics, monitor and predictions, and what a metric makes of it.

Shapes: B batch, K tasks, N numerical features, C features whose ids can be lost.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass
class Outputs:
    """What a step leaves for metrics, monitor and predictions; detached.

    Attributes:
        losses_K: this rank's losses, as they went into the gradient.
        predictions_BK: probabilities, float64; NaN where the logit is not finite.
        labels_BK: in [0, 1].
        masks_BK: mask times sample weight.
        rows_B: position of each row in the data set, -1 for padding.
        oracle_BK: true probabilities, or None.
        lost_2C: see `Batch`.
        dense_BN: the numerical inputs, in evaluation only.
    """

    losses_K: Tensor
    predictions_BK: Tensor
    labels_BK: Tensor
    masks_BK: Tensor
    rows_B: Tensor
    oracle_BK: Tensor | None
    lost_2C: Tensor | None = None
    dense_BN: Tensor | None = None


class Metric(Protocol):
    """A metric of an evaluation, over the rows of all ranks."""

    def update(self, outputs: Outputs) -> None:
        """Add the rows of a step."""
        ...

    def compute(self) -> Mapping[str, Mapping[str, float | None]]:
        """Return task -> figure -> value, None for what is undefined.

        Collective: every rank must call it.
        """
        ...

    def reset(self) -> None:
        """Forget all rows."""
        ...
