"""Gradient Vaccine (Wang and Tsvetkov 2021): cosines lifted to what is usual for a pair."""

import torch
from torch import Tensor

from mbrec.balance.arguments import check_number
from mbrec.balance.balancer import GramianBalancer
from mbrec.balance.methods.task_order import PairOrder
from mbrec.balance.solvers.spectrum import cosine_matrix

# A target of 1 would ask for an infinite step; the paper's loss explosions come from near it.
LARGEST_TARGET = 1 - 1e-4
# Cosines this close to their target count as there, so that rounding does not move a gradient.
TOLERANCE = 1e-6


class GradVac(GramianBalancer):
    """Where a pair's cosine is below its moving average, the gradient is turned up to it; summed.

    With an average of 0, as at the first step, that is PCGrad. The order of the pairs is drawn as
    PCGrad's is. Averages count as at most 0.9999, and a cosine within 1e-6 of its average is left
    alone; the published form has neither bound, and explodes near an average of 1.

    Args:
        ema_rate: weight of the new cosine in the average, in [0, 1); 0.01 in the paper, 0.5 in
            common libraries.
        shuffle: draw the order of the pairs; False takes the tasks' own.
        seed: of the orders.

    Raises:
        ValueError: if an argument is outside its range.

    >>> GradVac(2)(torch.tensor([[1.0, -0.5], [-0.5, 1.0]]))  # the first step
    tensor([1.5000, 1.5000], dtype=torch.float64)
    """

    target: Tensor

    def __init__(
        self, num_tasks: int, *, ema_rate: float = 0.01, shuffle: bool = True, seed: int = 0
    ) -> None:
        super().__init__(num_tasks)
        check_number("ema_rate", ema_rate, low=0.0, below=1.0)
        self.ema_rate = ema_rate
        self.order = PairOrder(num_tasks, shuffle=shuffle, seed=seed)
        target_KK = torch.zeros(num_tasks, num_tasks, dtype=torch.float64)
        self.register_pair_state("target", target_KK)

    def weigh(
        self, gramian_KK: Tensor, active_K: Tensor, ok: Tensor, losses_K: Tensor | None
    ) -> Tensor:
        """Return the sum of the turned tasks' coefficients; see `GramianBalancer.weigh`."""
        order_KK = self.order()
        norms_K, _ = cosine_matrix(gramian_KK, active_K)
        both_KK = active_K & active_K[:, None]
        coefficients_KK = torch.eye(self.num_tasks, dtype=torch.float64, device=gramian_KK.device)
        target_KK = self.target
        for other_K1 in order_KK.split(1, dim=1):
            inner_KK = coefficients_KK @ gramian_KK
            length_K1 = (inner_KK * coefficients_KK).sum(1, keepdim=True).clamp_min(0.0).sqrt()
            other_norm_K1 = norms_K[other_K1]
            # A gradient that was projected away has no direction left to turn.
            valid_K1 = both_KK.gather(1, other_K1) & (length_K1 > 1e-12 * norms_K[:, None])
            cosine_K1 = inner_KK.gather(1, other_K1) / (length_K1 * other_norm_K1)
            cosine_K1 = torch.where(valid_K1, cosine_K1, 0.0).clamp(-1.0, 1.0)
            usual_K1 = target_KK.gather(1, other_K1)
            wanted_K1 = usual_K1.clamp(-LARGEST_TARGET, LARGEST_TARGET)
            turn_K1 = length_K1 / other_norm_K1 * _step_along(cosine_K1, wanted_K1)
            turn_K1 = torch.where(valid_K1 & (cosine_K1 < wanted_K1 - TOLERANCE), turn_K1, 0.0)
            coefficients_KK = coefficients_KK.scatter_add(1, other_K1, turn_K1)
            average_K1 = (1 - self.ema_rate) * usual_K1 + self.ema_rate * cosine_K1
            average_K1 = torch.where(valid_K1, average_K1, usual_K1)
            target_KK = target_KK.scatter(1, other_K1, average_K1)
        self.target = torch.where(ok, target_KK, self.target)
        self.order.advance(ok)
        return torch.where(both_KK, coefficients_KK, 0.0).sum(0)


def _step_along(cosine: Tensor, wanted: Tensor) -> Tensor:
    """Return how much of the other unit vector lifts a unit vector's cosine to it as wanted."""
    sine, wanted_sine = (1 - cosine**2).sqrt(), (1 - wanted**2).sqrt()
    return (wanted * sine - cosine * wanted_sine) / wanted_sine
