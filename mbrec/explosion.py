"""Notices that training explodes, and says from when on. Part of the config schema; no torch.

He et al. 2024 mark such runs "NEX" in their Table 3.
"""

import math
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

# With fewer values before, nothing is called normal yet.
MIN_VALUES = 20


class OnExplosion(Enum):
    """What to do: stop; load the last sound checkpoint and go on with later rows; or nothing."""

    stop = "stop"
    rollback = "rollback"
    off = "off"


@dataclass
class Guard:
    """What stops a run that goes wrong. Non-finite values never reach a parameter, in any case.

    Attributes:
        max_skipped: batches with a non-finite loss or gradient that are left out before the run
            stops; 0 stops at the first.
        explosion: what to do when loss or gradient explode.
        factor: how many times the median of the steps before is an explosion.
        window: steps that the median is of.
        patience: steps in a row that have to be above.
        max_rollbacks: explosions that `rollback` lives through before the run stops.
    """

    max_skipped: int = 0
    explosion: OnExplosion = OnExplosion.stop
    factor: float = 10.0
    window: int = 100
    patience: int = 5
    max_rollbacks: int = 2

    def __post_init__(self) -> None:
        least = {"max_skipped": 0, "window": MIN_VALUES, "patience": 1, "max_rollbacks": 0}
        for name, low in least.items():
            if (value := getattr(self, name)) < low:
                raise ValueError(f"expected guard.{name} to be at least {low}, got {value}")
        if not self.factor > 1:
            raise ValueError(f"expected guard.factor above 1, got {self.factor}")

    @property
    def rollbacks(self) -> int:
        """Explosions to live through."""
        return self.max_rollbacks if self.explosion is OnExplosion.rollback else 0


@dataclass(frozen=True)
class Explosion:
    """An alarm.

    Attributes:
        first: the first step that was too large.
        what: "loss", or "gradient norm".
        value: at the last step.
        median: of the steps before.
    """

    first: int
    what: str
    value: float
    median: float

    def __str__(self) -> str:
        return (
            f"training explodes: the {self.what} has grown since step {self.first}, to "
            f"{self.value:.4g}; its median before was {self.median:.4g}"
        )


class ExplosionGuard:
    """Compares each step's loss and gradient norm with the median of the steps before.

    Values that are too large do not enter the median.

    Args:
        factor, window, patience: see `Guard`.

    >>> guard = ExplosionGuard(factor=10.0, window=20, patience=2)
    >>> calm = [guard.update(step, {"loss": 0.3}) for step in range(1, 31)]
    >>> guard.update(31, {"loss": 7.0}), guard.suspicious
    (None, True)
    >>> guard.update(32, {"loss": 8.0}).first
    31
    """

    def __init__(self, *, factor: float, window: int, patience: int) -> None:
        self._factor, self._window, self._patience = factor, window, patience
        self._normal: dict[str, deque[float]] = {}
        self._first: dict[str, int] = {}

    @property
    def suspicious(self) -> bool:
        """Whether the last step was too large in any respect."""
        return bool(self._first)

    def update(self, step: int, figures: dict[str, float]) -> Explosion | None:
        """Take a step's figures; return an alarm, or None.

        Args:
            step: its number.
            figures: by name, of the global batch.
        """
        alarm = None
        for name, value in figures.items():
            normal = self._normal.setdefault(name, deque(maxlen=self._window))
            median = statistics.median(normal) if len(normal) >= MIN_VALUES else math.inf
            if median > 0 and not value <= self._factor * median:
                first = self._first.setdefault(name, step)
                if step - first + 1 >= self._patience:
                    alarm = alarm or Explosion(first, name, value, median)
            else:
                self._first.pop(name, None)
                normal.append(value)
        return alarm

    def state(self) -> dict[str, list[float]]:
        """Return what is normal: the last values of each figure."""
        return {name: list(values) for name, values in self._normal.items()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on with what `state` returned.

        Raises:
            ValueError: if that are no finite numbers.
        """
        for name, values in state.items():
            good = isinstance(values, list) and all(
                isinstance(v, float | int) and math.isfinite(v) for v in values
            )
            if not good:
                raise ValueError(
                    f"expected finite numbers as the normal {name}, got {values!r:.100}"
                )
            self._normal[name] = deque(values, maxlen=self._window)

    def not_finite(self, step: int) -> Explosion:
        """Return the alarm of a step whose loss or gradient was not finite at all."""
        what, first = min(self._first.items(), key=lambda item: item[1], default=("loss", step))
        normal = self._normal.get(what)
        return Explosion(first, what, math.inf, statistics.median(normal) if normal else math.nan)

    def reset(self) -> None:
        """Forget what was too large, after a roll-back; what is normal stays."""
        self._first.clear()


def explosion_guard(settings: Guard) -> ExplosionGuard | None:
    """Return the guard that the settings describe, or None where it is off."""
    if settings.explosion is OnExplosion.off:
        return None
    return ExplosionGuard(
        factor=settings.factor, window=settings.window, patience=settings.patience
    )
