"""The moving average of the gradients' norms (Malkiel and Wolf 2020), shared by several methods."""

import torch
from torch import Tensor


def moved_average(average_K: Tensor, value_K: Tensor, *, decay: float, active_K: Tensor) -> Tensor:
    """Return decay * average + (1 - decay) * value; the first value starts the average.

    Args:
        average_K: the average so far, 0 where there is none yet.
        value_K: of this batch, positive where active.
        decay: in [0, 1).
        active_K: bool; the others keep their average.

    >>> average_K = torch.tensor([0.0, 2.0], dtype=torch.float64)
    >>> value_K = torch.tensor([4.0, 4.0], dtype=torch.float64)
    >>> moved_average(average_K, value_K, decay=0.5, active_K=value_K > 0)
    tensor([4., 3.], dtype=torch.float64)
    """
    moved_K = torch.lerp(value_K, average_K, decay * (average_K > 0).double())
    return torch.where(active_K, moved_K, average_K)
