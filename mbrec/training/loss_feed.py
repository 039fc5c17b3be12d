"""The losses of all ranks, on their way to the explosion guard.

Shapes: S steps, K tasks.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from mbrec.balance.backward.ranks import start_sum
from mbrec.training.explosion_guard import StepLosses

# Steps whose losses the ranks share at a time. An alarm comes that much later at most.
SHARED_STEPS = 4


class LossFeed:
    """Returns the losses of steps, the same on every rank, in the order of the steps.

    With its statistics the hook has the losses of all ranks at once, and they pass as they are.
    Without them, or with `lag=1`, each rank has its own: they are summed for a few steps at a time,
    in the background of the next step.
    """

    def __init__(self) -> None:
        self._own: list[StepLosses] = []
        self._under_way: tuple[list[StepLosses], Callable[[], Tensor]] | None = None

    def add(self, losses: StepLosses, *, of_all_ranks: bool) -> list[StepLosses]:
        """Take a step's losses; return those that all ranks have now.

        Collective: every rank must call it. The step's labels are those of all ranks;
        `of_all_ranks` says whether its losses are as well.
        """
        if of_all_ranks:
            return [losses]
        ready = self._finish()
        self._own.append(losses)
        if len(self._own) == SHARED_STEPS:
            self._start()
        return ready

    def rest(self) -> list[StepLosses]:
        """Return the losses that are still under way. Collective: every rank must call it."""
        ready = self._finish()
        self._start()
        return ready + self._finish()

    def _start(self) -> None:
        if self._own:
            losses_SK = torch.tensor([step.losses for step in self._own], dtype=torch.float64)
            self._under_way = self._own, start_sum(losses_SK.flatten())
            self._own = []

    def _finish(self) -> list[StepLosses]:
        if self._under_way is None:
            return []
        (steps, wait), self._under_way = self._under_way, None
        rows = wait().view(len(steps), -1).tolist()
        return [replace(step, losses=row) for step, row in zip(steps, rows, strict=True)]
