"""Euclidean projection on the probability simplex, shared by several balancers."""

import torch
from torch import Tensor


def project_to_simplex(
    point_K: Tensor, *, mass: Tensor | float = 1.0, active_K: Tensor | None = None
) -> Tensor:
    """Return the point of {w >= 0, sum of the active w = mass} that is nearest to `point_K`.

    The sort-and-threshold algorithm, with fixed shapes and without host synchronisation.

    Args:
        point_K: the point to project; use float64.
        mass: the sum of the result, >= 0.
        active_K: bool; the coordinates of the face that is projected on. The others come out 0.

    >>> project_to_simplex(torch.tensor([0.9, 0.5, -1.0], dtype=torch.float64))
    tensor([0.7000, 0.3000, 0.0000], dtype=torch.float64)
    """
    if active_K is None:
        active_K = torch.ones_like(point_K, dtype=torch.bool)
    num_tasks = point_K.numel()
    # Inactive coordinates sort last, where the masks below keep them out of every sum.
    sorted_K, order_K = point_K.masked_fill(~active_K, -torch.inf).sort(descending=True)
    valid_K = active_K[order_K]
    sums_K = sorted_K.masked_fill(~valid_K, 0.0).cumsum(0)
    ranks_K = torch.arange(1, num_tasks + 1, dtype=point_K.dtype, device=point_K.device)
    thresholds_K = (sums_K - mass) / ranks_K
    support = (valid_K & (sorted_K > thresholds_K)).sum().clamp_min(1)
    threshold = thresholds_K.gather(0, (support - 1).view(1))
    return (point_K - threshold).clamp_min(0.0).masked_fill(~active_K, 0.0)
