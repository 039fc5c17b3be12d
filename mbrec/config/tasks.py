"""What a task is, and how its losses are reduced. Part of the config schema; imports no torch."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from mbrec import UserError


class Reduction(Enum):
    """What the sum of a task's losses is divided by.

    `global_batch`: the global batch size. `unmasked`: the task's own count in the global batch,
    which makes rare tasks louder.
    """

    global_batch = "global_batch"
    unmasked = "unmasked"


@dataclass
class Task:
    """A binary target with a head of its own on the shared representation.

    Attributes:
        label: the label it predicts, by the data set's name for it.
        given: the label that must be positive for a row to count; CVR is given the click.
        weight: multiplies the loss, for its head as well.
        hidden: widths of the head's hidden layers.
    """

    label: str = MISSING
    given: str | None = None
    weight: float = 1.0
    hidden: list[int] = field(default_factory=lambda: [128])

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise UserError(f"expected the weight of a task to be positive, got {self.weight}")
        if any(width < 1 for width in self.hidden):
            raise UserError(f"expected widths of at least 1 in hidden, got {self.hidden}")
