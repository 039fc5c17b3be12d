"""The random order in which PCGrad and GradVac go through the other tasks.

Shapes: K tasks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mbrec.balance.solvers.counter import pair_keys, uniform
from mbrec.balance.state import NamedState


class PairOrder(NamedState):
    """For each task an order of the others, drawn again in each step.

    A draw is a function of seed, step and the names of the two tasks: all ranks draw the same, a
    resumed run continues it, and another order of the tasks in a config changes nothing.

    Args:
        shuffle: draw an order; False keeps that of the rows.
        seed: of the draws.

    >>> PairOrder(3, shuffle=False, seed=0)().tolist()
    [[1, 2], [0, 2], [0, 1]]
    """

    step: Tensor
    keys: Tensor

    def __init__(self, num_tasks: int, *, shuffle: bool, seed: int) -> None:
        super().__init__(num_tasks)
        self.shuffle, self.seed = shuffle, seed
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        keys_KK = torch.zeros(num_tasks, num_tasks, dtype=torch.int64)
        self.register_buffer("keys", keys_KK, persistent=False)
        self.name_tasks(self.task_names)

    def name_tasks(self, names: Sequence[str]) -> None:
        """Draw by these names from now on; see `NamedState.name_tasks`."""
        super().name_tasks(names)
        self.keys.copy_(torch.tensor(pair_keys(names)))

    def forward(self) -> Tensor:
        """Return the K - 1 others of each task, (K, K-1) int64, in the order of this step."""
        size, device = self.num_tasks, self.keys.device
        if self.shuffle:
            place_KK = uniform(self.keys, seed=self.seed, step=self.step)
        else:
            place_KK = torch.arange(size, device=device).expand(size, -1).float()
        own_KK = torch.eye(size, dtype=torch.bool, device=device)
        return place_KK.masked_fill(own_KK, torch.inf).argsort(dim=1)[:, : size - 1]

    def advance(self, ok: Tensor) -> None:
        """Go to the next step, where `ok`."""
        self.step = self.step + ok
