"""Notices that training explodes, and since when. Imports no torch.

He et al. 2024 mark such runs "NEX" in their Table 3.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from mbrec.config.guard import Guard, OnExplosion
from mbrec.metrics.best_constant import UNTRAINED, BinaryConstant

# Least reference, in nats per row: the entropy of a rate of 7e-4. Where all labels are the same
# the best constant loses nothing, and any model is many times worse.
FLOOR = 0.005
# Nats by which the losses have to be too large. A model whose predictions are right loses that much
# to any other prediction by chance with a probability below exp(-20) (Ville's inequality).
EVIDENCE = 20.0
# Up to this multiple of the reference a loss is sound, and so is the model.
SOUND = 2.0
# NE of an evaluation from which on it is reported; a constant has 1.
BAD_NE = 1.2


@dataclass(frozen=True)
class StepLosses:
    """One step's losses in nats, rows and positive labels by task, summed over the global batch.

    The losses are log losses; rows and positives count with their weights.
    """

    step: int
    losses: Sequence[float]
    rows: Sequence[float]
    positives: Sequence[float]


@dataclass(frozen=True)
class Explosion:
    """An alarm.

    Attributes:
        first: the first step whose loss was no longer sound.
        task: whose loss it is; empty where a value was not finite, and no loss was too large.
        value: loss per row in the last step.
        constant: loss per row of the best constant.
    """

    first: int
    task: str
    value: float
    constant: float

    def __str__(self) -> str:
        what = f"the loss of task '{self.task}'" if self.task else "a loss or gradient"
        since = f"training explodes: {what} has grown since step {self.first}, to {self.value:.4g}"
        if not self.task:
            return since
        return f"{since} per row; predicting the label rate alone has {self.constant:.4g}"


@dataclass
class _Level:
    """How one task stands.

    Attributes:
        reached: loss per row that the model has reached; it only falls.
        steps: steps since it was last compared with the largest loss; not step 1.
        peak: the largest loss per row of these steps, at least that of an untrained model.
        evidence: nats by which the last losses were too large.
        above: steps of the present rise that were too large.
        sound: the last step whose loss was sound.
        first: the step after it, when the present rise began; 0 without one.
    """

    constant: BinaryConstant = field(default_factory=BinaryConstant)
    reached: float = 0.0
    steps: int = 0
    peak: float = 0.0
    evidence: float = 0.0
    above: int = 0
    sound: int = 0
    first: int = 0


class ExplosionGuard:
    """Compares each task's loss with that of the best constant prediction on the same labels.

    A loss is too large above `factor` times the reference. That is the constant's loss, or the
    level that the model has reached where this is higher: in the beginning that of an untrained
    model, from which it only falls: slowly, and every `window` steps at least to the largest loss
    among them. The evidence for an explosion is the sum of the losses' excess over this threshold,
    as in a CUSUM chart: smaller losses take theirs off again, down to zero, and one step adds about
    as much as the threshold at most. So a single batch is no alarm, however large its loss;
    `patience` of them are, unless others outweigh them.

    Args:
        tasks: names, in the order of the losses.
        factor, window, patience: see `Guard`.

    >>> guard = ExplosionGuard(["ctr"], factor=5.0, window=100, patience=2)
    >>> calm = [guard.update(StepLosses(n, [30.0], [64.0], [10.0])) for n in range(1, 400)]
    >>> guard.update(StepLosses(400, [900.0], [64.0], [10.0])), guard.suspicious
    (None, True)
    >>> guard.update(StepLosses(401, [900.0], [64.0], [10.0])).first
    400
    """

    def __init__(self, tasks: Sequence[str], *, factor: float, window: int, patience: int) -> None:
        self._factor, self._window, self._patience = factor, window, patience
        self._levels = {task: _Level() for task in tasks}

    @property
    def suspicious(self) -> bool:
        """Whether the last losses of any task were too large."""
        return any(level.evidence > 0 for level in self._levels.values())

    def update(self, seen: StepLosses) -> Explosion | None:
        """Take a step's losses; return an alarm, or None."""
        alarm = None
        figures = zip(self._levels, seen.losses, seen.rows, seen.positives, strict=True)
        for task, loss, rows, positives in figures:
            if rows > 0:
                found = self._update(task, seen.step, loss, rows, positives)
                alarm = alarm or found
        return alarm

    def _update(
        self, task: str, step: int, loss: float, rows: float, positives: float
    ) -> Explosion | None:
        level = self._levels[task]
        if not level.constant.rows:
            # Nothing has trained it yet: what it loses is what an untrained model loses.
            level.reached = max(UNTRAINED, loss / rows)
        else:
            self._end_block(level, max(UNTRAINED, loss / rows))
        constant = level.constant.loss(positives, rows)
        level.constant.learn(positives, rows, window=self._window)
        reference = max(constant, level.reached * rows, FLOOR * rows)
        too_large = self._count(level, step, loss, reference)
        if not too_large:
            level.reached += min(loss / rows - level.reached, 0.0) / self._window
        if level.above < self._patience or level.evidence < EVIDENCE:
            return None
        return Explosion(level.first, task, loss / rows, constant / rows)

    def _end_block(self, level: _Level, loss: float) -> None:
        """After each `window` steps, lower the level to the largest loss per row among them.

        No healthy loss is far above that. Without it, one outlier in step 1 would keep the level
        up for thousands of steps, because it falls by a share of itself only.
        """
        level.steps, level.peak = level.steps + 1, max(level.peak, loss)
        if level.steps >= self._window:
            level.reached = min(level.reached, level.peak)
            level.steps, level.peak = 0, 0.0

    def _count(self, level: _Level, step: int, loss: float, reference: float) -> bool:
        """Update the evidence of an explosion; return whether the step's loss is too large."""
        threshold = self._factor * reference
        # One step alone never has the evidence, nor outweighs many.
        most = max(threshold, 2 * EVIDENCE / self._patience)
        too_large = loss > threshold
        if too_large:
            level.first = level.first or level.sound + 1
            level.above += 1
        # Small excesses do not add up for ever: a model that is a little off has not exploded.
        faded = (1.0 - 1.0 / self._window) * level.evidence
        level.evidence = max(faded + min(loss - threshold, most), 0.0)
        if not level.evidence:
            level.above, level.first = 0, 0
        if loss <= SOUND * reference:
            level.sound = step
        return too_large

    def state(self) -> dict[str, Any]:
        """Return how each task stands, for `load`."""
        return {task: asdict(level) for task, level in self._levels.items()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned; a task that it does not have starts from scratch.

        Raises:
            ValueError: if the state holds anything else.
        """
        for task in self._levels.keys() & state.keys():
            self._levels[task] = _parse(task, state[task])

    def not_finite(self, step: int) -> Explosion:
        """Return the alarm of a step whose loss or gradient was not finite at all."""
        rising = {level.first: task for task, level in self._levels.items() if level.first}
        if not rising:
            return Explosion(step, "", math.inf, 0.0)
        first = min(rising)
        constant = self._levels[rising[first]].constant
        loss = constant.loss(constant.positives, constant.rows) / constant.rows
        return Explosion(first, rising[first], math.inf, loss)

    def reset(self) -> None:
        """Forget the present rises, after a roll-back; the levels reached stay."""
        for level in self._levels.values():
            level.evidence, level.above, level.first = 0.0, 0, 0


def _parse(task: str, content: Any) -> _Level:
    """Return a level from the JSON values that `ExplosionGuard.state` wrote."""
    # Checkpoints from before these two do not have them.
    parts = {"steps": 0, "peak": 0.0, **content} if isinstance(content, Mapping) else {}
    constant = parts.pop("constant", None)
    for kind, values in ((BinaryConstant, constant), (_Level, parts)):
        names = {part.name for part in fields(kind)} - {"constant"}
        good = isinstance(values, Mapping) and values.keys() == names
        if not good or not all(_is_amount(value) for value in values.values()):
            listed = ", ".join(sorted(names))
            raise ValueError(
                f"expected numbers of 0 or more as the explosion guard's {listed} of task "
                f"'{task}', got {values!r:.200}"
            )
    return _Level(BinaryConstant(**constant), **parts)


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value < math.inf


def warnings_of(report: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """Return a warning for each task of an evaluation that a constant would predict better."""
    return [
        f"the NE of task '{task}' is {ne:.4g}, worse than the 1 of predicting the label rate for "
        "every row: the steps were too few, the model overfitted, or training exploded; "
        "the training loss shows which"
        for task, figures in report.items()
        if (ne := figures.get("ne")) is not None and ne >= BAD_NE
    ]


def explosion_guard(settings: Guard, tasks: Sequence[str]) -> ExplosionGuard | None:
    """Return the guard that the settings describe, or None where it is off."""
    if settings.explosion is OnExplosion.off:
        return None
    return ExplosionGuard(
        tasks, factor=settings.factor, window=settings.window, patience=settings.patience
    )
