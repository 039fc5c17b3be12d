"""CAGrad (Liu et al. 2021): the best worst-case decrease near the average gradient."""

import torch
from torch import Tensor

from mbrec.balance.arguments import check_choice, check_number
from mbrec.balance.balancer import GramianBalancer
from mbrec.balance.interior import isolate, minimise
from mbrec.balance.spectrum import uniform_over, unit_gramian

# The norm in the objective has a kink where gradients cancel; near it more steps are needed.
STEPS = 40


class CAGrad(GramianBalancer):
    """The direction within c |g0| of the average g0 whose smallest inner product is largest.

    w minimises <g_w, g0> + c |g0| |g_w| over the simplex, and the merged gradient is
    g0 + c |g0| g_w / |g_w|, divided as `rescale` says.

    Args:
        num_tasks: K.
        c: radius around the average, >= 0; below 1 it converges to a minimum of the average.
        rescale: 0: no division; 1: by 1 + c^2 (the published default); 2: by 1 + c.
        output_scale: multiplies the merged gradient; the published vision code has K.

    Raises:
        ValueError: if an argument is outside its range.

    >>> CAGrad(2, c=0.5, rescale=0)(torch.eye(2))
    tensor([0.7500, 0.7500], dtype=torch.float64)
    """

    def __init__(
        self, num_tasks: int, *, c: float = 0.5, rescale: int = 1, output_scale: float = 1.0
    ) -> None:
        super().__init__(num_tasks)
        check_number("c", c, low=0.0)
        check_choice("rescale", rescale, (0, 1, 2))
        check_number("output_scale", output_scale, low=0.0)
        self.c = c
        self.factor = output_scale / {0: 1.0, 1: 1.0 + c**2, 2: 1.0 + c}[rescale]

    def weigh(
        self, gramian_KK: Tensor, active_K: Tensor, ok: Tensor, losses_K: Tensor | None
    ) -> Tensor:
        """Return the weights; see `GramianBalancer.weigh`."""
        unit_KK, _ = unit_gramian(gramian_KK, active_K)
        mean_K = uniform_over(active_K)
        toward_K = unit_KK @ mean_K
        inactive_KK, cost_K = isolate(torch.zeros_like(unit_KK), active_K)
        radius = self.c * (mean_K @ toward_K).clamp_min(0.0).sqrt()

        def derivatives(x: Tensor) -> tuple[Tensor, Tensor]:
            # r |g_w| is the least of r (|g_w|^2 / t + t) / 2 over t > 0, which is smooth.
            w_K, t = x[:-1], x[-1]
            inner_K = radius * (unit_KK @ w_K) / t
            ratio = (w_K @ inner_K) / t
            slope = torch.cat([toward_K + inner_K + cost_K, (0.5 * (radius - ratio)).view(1)])
            top_KK = radius * unit_KK / t + inactive_KK
            side_K1 = -(inner_K / t)[:, None]
            below = torch.cat([side_K1.T, (ratio / t).view(1, 1)], 1)
            return slope, torch.cat([torch.cat([top_KK, side_K1], 1), below])

        start_K = torch.full_like(mean_K, 1.0 / self.num_tasks)
        length = (mean_K @ toward_K).clamp_min(1e-12).sqrt().view(1)
        start = torch.cat([start_K, length])
        x = minimise(derivatives, start, simplex=True, free=1, steps=STEPS)
        weight_K = torch.where(active_K, x[:-1], 0.0)
        length = (weight_K @ unit_KK @ weight_K).clamp_min(0.0).sqrt()
        defined = length > 1e-6
        added_K = radius / torch.where(defined, length, 1.0) * weight_K
        return self.factor * (mean_K + torch.where(defined, added_K, 0.0))
