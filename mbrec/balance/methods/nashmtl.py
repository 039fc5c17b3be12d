"""Nash-MTL (Navon et al. 2022): the Nash bargaining solution of the tasks."""

import torch
from torch import Tensor

from mbrec.balance.arguments import check_number
from mbrec.balance.balancer import GramianBalancer
from mbrec.balance.solvers.spectrum import cosine_matrix

NEWTON_STEPS = 30
RIDGE = 1e-8


class NashMTL(GramianBalancer):
    """Positive weights with G a = 1 / a, element by element.

    The unique minimum of 1/2 a' G a - sum log a, found by damped Newton steps on the cosines. The
    merged gradient then has norm sqrt(K), whatever the size of the gradients: the weights go as
    1 / size, and `max_norm` sets the length. Published as weights of the losses, heads
    included; here the heads keep their own gradients. Where no solution exists (opposed
    gradients), a_k = 1 / (n_k sqrt(K)). The published code takes 20 rounds of a convex solver,
    keeps the weights of the step before where that fails, and clips the gradient of the shared
    parameters at `max_norm`, where this scales that of the representation.

    Args:
        max_norm: the merged gradient is scaled down to this norm; None leaves sqrt(K).

    Raises:
        ValueError: if `max_norm` is not positive.

    >>> NashMTL(2, max_norm=None)(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
    tensor([0.5000, 1.0000], dtype=torch.float64)
    """

    def __init__(self, num_tasks: int, *, max_norm: float | None = 1.0) -> None:
        super().__init__(num_tasks)
        if max_norm is not None:
            check_number("max_norm", max_norm, low=1e-12)
        self.max_norm = max_norm

    def weigh(
        self, gramian_KK: Tensor, active_K: Tensor, ok: Tensor, losses_K: Tensor | None
    ) -> Tensor:
        """Return the weights; see `GramianBalancer.weigh`."""
        norms_K, cosines_KK = cosine_matrix(gramian_KK, active_K)
        count = active_K.sum().clamp_min(1)
        start_K = torch.ones_like(norms_K) / count.sqrt()
        # Inactive tasks are a problem of their own: b = 1 / b.
        matrix_KK = cosines_KK + torch.diag(torch.where(active_K, RIDGE, 1.0))
        share_K = start_K
        for _ in range(NEWTON_STEPS):
            gradient_K = matrix_KK @ share_K - 1 / share_K
            hessian_KK = matrix_KK + torch.diag(share_K**-2)
            step_K, _ = torch.linalg.solve_ex(hessian_KK, -gradient_K)
            decrement = -(gradient_K @ step_K)
            decrement = decrement.clamp_min(0.0).sqrt()
            # The damping that keeps a self-concordant function's steps inside its domain.
            share_K = share_K + step_K / torch.where(decrement > 0.25, 1 + decrement, 1.0)
        residual_K = torch.where(active_K, share_K * (cosines_KK @ share_K) - 1.0, 0.0)
        share_K = torch.where(residual_K.abs().max() < 1e-3, share_K, start_K)
        weights_K = torch.where(active_K, share_K / norms_K, 0.0)
        if self.max_norm is not None:
            length = (weights_K @ gramian_KK @ weights_K).clamp_min(0.0).sqrt()
            weights_K = weights_K * (self.max_norm / length.clamp_min(self.max_norm))
        return weights_K
