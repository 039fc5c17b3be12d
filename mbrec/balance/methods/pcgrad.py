"""PCGrad (Yu et al. 2020): conflicting gradients projected off each other."""

import torch
from torch import Tensor

from mbrec.balance.balancer import GramianBalancer
from mbrec.balance.methods.task_order import PairOrder


class PCGrad(GramianBalancer):
    """Each task's gradient loses its component along every other that it conflicts with; summed.

    The others come in an order that is drawn again in each step. It is a function of seed, step and
    the tasks' names, so all ranks draw the same one, and a resumed run continues it. Common
    code adds 1e-8 to the squared norms it divides by; gradients of a representation are smaller.

    Args:
        shuffle: draw the order; False takes the tasks' own.
        seed: of the orders.

    >>> PCGrad(2)(torch.tensor([[1.0, -0.5], [-0.5, 1.0]]))
    tensor([1.5000, 1.5000], dtype=torch.float64)
    """

    def __init__(self, num_tasks: int, *, shuffle: bool = True, seed: int = 0) -> None:
        super().__init__(num_tasks)
        self.order = PairOrder(num_tasks, shuffle=shuffle, seed=seed)

    def weigh(
        self, gramian_KK: Tensor, active_K: Tensor, ok: Tensor, losses_K: Tensor | None
    ) -> Tensor:
        """Return the sum of the projected tasks' coefficients; see `GramianBalancer.weigh`."""
        order_KK = self.order()
        squares_K = torch.where(active_K, gramian_KK.diagonal(), 1.0)
        # Row i: the coefficients of task i's projected gradient on the raw ones.
        coefficients_KK = torch.eye(self.num_tasks, dtype=torch.float64, device=gramian_KK.device)
        for other_K1 in order_KK.split(1, dim=1):
            inner_K1 = (coefficients_KK @ gramian_KK).gather(1, other_K1)
            along_K1 = inner_K1.clamp_max(0.0) / squares_K[other_K1]
            coefficients_KK = coefficients_KK.scatter_add(1, other_K1, -along_K1)
        self.order.advance(ok)
        active_K1 = active_K[:, None]
        return torch.where(active_K & active_K1, coefficients_KK, 0.0).sum(0)
