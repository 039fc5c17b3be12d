"""CAGrad (Liu et al. 2021): the best worst-case decrease near the average gradient."""

import torch
from torch import Tensor

from mbrec.balance.arguments import check_choice, check_number
from mbrec.balance.balancer import GramianBalancer
from mbrec.balance.interior import isolate, minimise
from mbrec.balance.spectrum import uniform_over, unit_gramian


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
        check_choice("rescale", str(rescale), ("0", "1", "2"))
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

        def derivatives(w_K: Tensor) -> tuple[Tensor, Tensor]:
            inner_K = unit_KK @ w_K
            # The norm has a kink at 0, where gradients cancel; this rounds it off.
            length = (w_K @ inner_K).clamp_min(0.0).add(1e-14).sqrt()
            unit_K = inner_K / length
            hessian_KK = (unit_KK - unit_K * unit_K[:, None]) / length
            return toward_K + radius * unit_K + cost_K, radius * hessian_KK + inactive_KK

        start_K = torch.full_like(mean_K, 1.0 / self.num_tasks)
        weight_K = minimise(derivatives, start_K, simplex=True)
        weight_K = torch.where(active_K, weight_K, 0.0)
        length = (weight_K @ unit_KK @ weight_K).clamp_min(0.0).sqrt()
        defined = length > 1e-6
        added_K = radius / torch.where(defined, length, 1.0) * weight_K
        return self.factor * (mean_K + torch.where(defined, added_K, 0.0))
