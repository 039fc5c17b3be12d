"""CAGrad (Liu et al. 2021): the best worst-case decrease near the average gradient.

Shapes: K tasks, L lengths side by side.
"""

import math
from functools import partial

import torch
from torch import Tensor

from mbrec.balance.arguments import check_choice, check_number
from mbrec.balance.balancer import GramianBalancer
from mbrec.balance.solvers.interior import isolate, minimise
from mbrec.balance.solvers.spectrum import uniform_over, unit_gramian

# Lengths |g_w| that are tried side by side, twice: the second time between two of the first.
LENGTHS = 48
# What the products of float32 gradients leave of zero, beside a mean square of 1. Each gradient
# counts as having so much of its own, so that no sum of them vanishes and no weight is huge.
OWN = 1e-7


class CAGrad(GramianBalancer):
    """The direction within c |g0| of the average g0 whose smallest inner product is largest.

    w minimises <g_w, g0> + c |g0| |g_w| over the simplex, and the merged gradient is
    g0 + c |g0| g_w / |g_w|, divided as `rescale` says. Where gradients oppose each other, or c is
    1 or more, g_w may vanish, and the best direction is one inside the ball that lowers no task:
    each gradient counts as having a little of its own (OWN), which finds it. The smallest inner
    product is within 3e-4 |g0| max |g| of the largest there is, and within 3e-5 where |g_w| is
    above 0.01 max |g|. Published with SLSQP, which stops short of that on Gramians of this size.

    Args:
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
        average = (mean_K @ toward_K).clamp_min(0.0).sqrt()
        weight_K = self._worst_off(unit_KK, toward_K / average.clamp_min(1e-8), active_K)
        square, rest = weight_K @ unit_KK @ weight_K, OWN * weight_K.square().sum()
        square = torch.where(square > 1e3 * rest, square, (square + rest).clamp_min(rest))
        length = torch.where(square > 0, square, 1.0).sqrt()
        return self.factor * (mean_K + self.c * average / length * weight_K)

    def _worst_off(self, unit_KK: Tensor, toward_K: Tensor, active_K: Tensor) -> Tensor:
        """Return the minimiser w of <g_w, g0> / |g0| + c |g_w| over the simplex.

        For l = |g_w| it also minimises c |g_w|^2 / 2 + l <g_w, g0> / |g0|, which is quadratic;
        and there is one l that is the length of its own solution.
        """
        matrix_KK = unit_KK + torch.diag(torch.full_like(toward_K, OWN))
        # From less than OWN leaves to more than the longest of so many gradients.
        low, high = 0.5 * math.log(OWN / self.num_tasks), math.log(2.0 * self.num_tasks)
        kind = {"dtype": matrix_KK.dtype, "device": matrix_KK.device}
        places_L = torch.linspace(low, high, LENGTHS, **kind)
        _, _, ends = self._bracket(places_L, matrix_KK, toward_K, active_K)
        shares_L = torch.linspace(0.0, 1.0, LENGTHS, **kind)
        places_L = torch.lerp(ends[0], ends[1], shares_L)
        weights_2K, excess_2, _ = self._bracket(places_L, matrix_KK, toward_K, active_K)
        # Between two lengths the solution is linear, but where a task comes in or goes out.
        above, below = excess_2
        share = (above / (above - below).clamp_min(1e-300)).clamp(0.0, 1.0)
        return torch.lerp(weights_2K[0], weights_2K[1], share)

    def _bracket(
        self, places_L: Tensor, matrix_KK: Tensor, toward_K: Tensor, active_K: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the solutions for the two lengths between which one fits itself.

        Args:
            places_L: logarithms of lengths, rising.
            matrix_KK: inner products.
            toward_K: of each gradient with the average's direction.
            active_K: bool.

        Returns:
            weights_2K, by how much each solution is longer, and the two logarithms.
        """
        length_L1 = places_L.exp()[:, None]
        size_L1 = self.c + length_L1
        spread_KK, cost_K = isolate(torch.zeros_like(matrix_KK), active_K)
        slope_LK = length_L1 / size_L1 * toward_K + cost_K
        matrix_LKK = (self.c / size_L1)[:, :, None] * matrix_KK + spread_KK
        start_LK = torch.full_like(slope_LK, 1.0 / self.num_tasks)
        solved_LK = minimise(partial(_derivatives, matrix_LKK, slope_LK), start_LK, simplex=True)
        solved_LK = torch.where(active_K, solved_LK, 0.0)
        own_L = ((solved_LK @ matrix_KK) * solved_LK).sum(1).clamp_min(0.0).sqrt()
        excess_L = own_L - length_L1[:, 0]
        first = (excess_L > 0).sum().clamp(1, LENGTHS - 1) - 1
        two = first + torch.arange(2, device=first.device)
        return solved_LK.index_select(0, two), excess_L.gather(0, two), places_L.gather(0, two)


def _derivatives(matrix: Tensor, slope: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    return (matrix @ x.unsqueeze(-1)).squeeze(-1) + slope, matrix
