"""The random order in which PCGrad and GradVac go through the other tasks.

Shapes: K tasks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mbrec.balance.counter import pair_keys, uniform


def order_of_others(names: Sequence[str], shuffle: bool, seed: int, step: Tensor) -> Tensor:
    """Return for each task the K - 1 others, (K, K-1) int64, in the order of this step.

    A draw belongs to the names of the two tasks, so another order of the tasks in a config
    changes nothing.

    Args:
        names: of the tasks.
        shuffle: draw an order; False keeps that of the rows.
        seed: of the draws.
        step: integer tensor without dimension; the result is on its device.

    >>> order_of_others(["a", "b", "c"], False, 0, torch.tensor(0)).tolist()
    [[1, 2], [0, 2], [0, 1]]
    """
    device, num_tasks = step.device, len(names)
    if shuffle:
        # Scalars from the host go into kernels as arguments; nothing waits for a copy.
        drawn = [torch.stack([uniform(torch.full_like(step, key), seed=seed, step=step)
                 for key in row]) for row in pair_keys(names)]  # fmt: skip
        place_KK = torch.stack(drawn)
    else:
        place_KK = torch.arange(num_tasks, device=device).expand(num_tasks, -1).double()
    own_KK = torch.eye(num_tasks, dtype=torch.bool, device=device)
    return place_KK.masked_fill(own_KK, torch.inf).argsort(dim=1)[:, : num_tasks - 1]
