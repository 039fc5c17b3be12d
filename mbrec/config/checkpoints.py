"""When a run is saved and what it continues from. Part of the config schema; imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mbrec import UserError

# Figure of an evaluation -> whether less of it is better.
FIGURES = {"ne": True, "log_loss": True, "excess_ne": True, "auc": False}


@dataclass
class Checkpoints:
    """When the run is saved, and what is kept.

    Attributes:
        enabled: save at all; at the end, and on SIGTERM or SIGINT.
        every: steps between periodic saves; null: none.
        keep: how many of the newest checkpoints are kept, besides the best.
        best: `TASK.FIGURE`, such as `cvr.ne`: keep the checkpoint with the best evaluation.
        patience: stop after that many evaluations in a row without a better `best`.
        background: write during training, from a copy in memory.
    """

    enabled: bool = True
    every: int | None = 1000
    keep: int = 2
    best: str | None = None
    patience: int | None = None
    background: bool = True

    def __post_init__(self) -> None:
        for name in ("every", "keep", "patience"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"expected checkpoint.{name} to be at least 1, got {value}")
        if self.best is not None and self.best.rpartition(".")[2] not in FIGURES:
            raise UserError(
                f"expected TASK.FIGURE in checkpoint.best, with one of {', '.join(FIGURES)}, got "
                f"{self.best}"
            )
        if self.patience is not None and self.best is None:
            raise UserError("expected checkpoint.best with checkpoint.patience, got null")


@dataclass
class Resume:
    """What the run continues from.

    Attributes:
        path: `auto` takes the newest checkpoint in the run's own folder that is whole, and starts
            from scratch where there is none; `none` starts from scratch; or the folder of a
            checkpoint or of another run, to begin with: a restart continues from what the run
            itself has saved.
        allow_new: tasks, tables and features that the checkpoint may lack; they start from scratch.
        allow_dropped: those that only the checkpoint has; what belongs to them is left out.
    """

    path: str = "auto"
    allow_new: list[str] = field(default_factory=list)
    allow_dropped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Best:
    """The best evaluation of a run so far: its step, the figure, and how many came after it."""

    step: int
    value: float
    since: int


def find_best(history: Sequence[Mapping[str, Any]], name: str) -> Best | None:
    """Return the best of some evaluations; the first of equal ones.

    >>> history = [{"step": s, "tasks": {"cvr": {"ne": n}}} for s, n in [(10, 0.9), (20, 0.95)]]
    >>> find_best(history, "cvr.ne")
    Best(step=10, value=0.9, since=1)
    """
    task, _, figure = name.rpartition(".")
    sign = 1.0 if FIGURES[figure] else -1.0
    # A run may have gone on with a task that it did not begin with.
    values = [(entry["step"], entry["tasks"].get(task, {}).get(figure)) for entry in history]
    known = [(sign * v, i, step) for i, (step, v) in enumerate(values) if v is not None]
    if not known:
        return None
    value, index, step = min(known)
    return Best(step, sign * value, len(values) - 1 - index)
