"""Equal weights: the plain sum of the task gradients, or their mean."""

import torch
from torch import Tensor

from mbrec.balance.balancer import GramianBalancer


class Equal(GramianBalancer):
    """Every task weighs the same (He et al. 2024, Algorithm 1): the baseline of every method.

    With `scale="sum"` the model trains bit for bit as it would without the hook. It needs no
    statistics; the hook computes them only when it is asked to.

    Args:
        scale: "sum" (weight 1, Algorithm 1) or "mean" (weight 1/K, the size of a step that
            methods with weights on the simplex take).

    Raises:
        ValueError: if `scale` is neither.

    >>> Equal(2)(torch.eye(2))
    tensor([1., 1.], dtype=torch.float64)
    """

    def __init__(self, num_tasks: int, *, scale: str = "sum") -> None:
        super().__init__(num_tasks)
        if scale not in ("sum", "mean"):
            raise ValueError(f"expected scale to be 'sum' or 'mean', got {scale!r}")
        self.weight = 1.0 if scale == "sum" else 1.0 / num_tasks
        self.constant_weights = (self.weight,) * num_tasks

    def weigh(
        self, gramian_KK: Tensor, active_K: Tensor, ok: Tensor, losses_K: Tensor | None
    ) -> Tensor:
        """Return the constant weights; see `GramianBalancer.weigh`."""
        # Not masked by active_K: an inactive task's gradient is zero, and 1 keeps sums bitwise.
        return torch.full_like(gramian_KK[0], self.weight)
