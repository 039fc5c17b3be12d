"""Constant task weights: the baseline that a sweep would find."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mbrec.balance.balancer import GramianBalancer


class Static(GramianBalancer):
    """Weights chosen by the user, on the gradients of the shared part only.

    The heads keep their own gradients, unlike with weights on the losses. Needs no statistics.

    Args:
        weights: K finite numbers, used as they are.

    Raises:
        ValueError: if there are not K finite weights.

    >>> Static(2, weights=[0.3, 0.7])(torch.eye(2))
    tensor([0.3000, 0.7000], dtype=torch.float64)
    """

    def __init__(self, num_tasks: int, *, weights: Sequence[float]) -> None:
        super().__init__(num_tasks)
        weights_K = torch.tensor(list(weights), dtype=torch.float64)
        if weights_K.shape != (num_tasks,) or not bool(torch.isfinite(weights_K).all()):
            raise ValueError(f"expected weights to be {num_tasks} finite numbers, got {weights}")
        self.constant_weights = tuple(weights_K.tolist())
        self.chosen: Tensor
        self.register_buffer("chosen", weights_K, persistent=False)

    def weigh(
        self, gramian_KK: Tensor, active_K: Tensor, ok: Tensor, losses_K: Tensor | None
    ) -> Tensor:
        """Return the constant weights; see `GramianBalancer.weigh`."""
        return self.chosen
