"""Settings of the guards against values that are not finite and against explosions."""

from dataclasses import dataclass
from enum import Enum

from mbrec import UserError

# With fewer steps the label rate would be noise.
MIN_WINDOW = 20


class OnExplosion(Enum):
    """What to do: stop; load the last sound checkpoint and continue with later rows; or nothing."""

    stop = "stop"
    rollback = "rollback"
    off = "off"


@dataclass
class Guard:
    """What stops a run that goes wrong. Non-finite values never reach a parameter, in any case.

    Attributes:
        max_skipped: batches with a non-finite loss or gradient that are left out before the run
            stops; 0 stops at the first.
        explosion: what to do when a task's loss explodes.
        factor: multiple of the loss of the best constant prediction that is an explosion.
        window: steps over which the label rate, which is that prediction, and evidence fade.
        patience: steps with such a loss that it takes.
        max_rollbacks: explosions that `rollback` tolerates before the run stops.
    """

    max_skipped: int = 0
    explosion: OnExplosion = OnExplosion.stop
    factor: float = 5.0
    window: int = 100
    patience: int = 3
    max_rollbacks: int = 2

    def __post_init__(self) -> None:
        least = {"max_skipped": 0, "window": MIN_WINDOW, "patience": 1, "max_rollbacks": 0}
        for name, low in least.items():
            if (value := getattr(self, name)) < low:
                raise UserError(f"expected guard.{name} to be at least {low}, got {value}")
        if not self.factor > 1:
            raise UserError(f"expected guard.factor above 1, got {self.factor}")

    @property
    def rollbacks(self) -> int:
        """Explosions to tolerate."""
        return self.max_rollbacks if self.explosion is OnExplosion.rollback else 0
