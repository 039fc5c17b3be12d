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
    if active_K is not None:
        # So far below the others that it sorts last, never supports the threshold, and ends at 0.
        point_K = torch.where(active_K, point_K, -1e30)
    sorted_K = point_K.sort(descending=True).values
    ranks_K = torch.arange(1, len(point_K) + 1, dtype=point_K.dtype, device=point_K.device)
    thresholds_K = (sorted_K.cumsum(0) - mass) / ranks_K
    support = (sorted_K > thresholds_K).sum().clamp_min(1)
    return (point_K - thresholds_K.gather(0, (support - 1).view(1))).clamp_min(0.0)
