"""MGDA (Desideri 2012; Sener and Koltun 2018): the min-norm point of the gradients' hull."""

import torch
from torch import Tensor

from mbrec.balance.arguments import check_choice
from mbrec.balance.balancer import GramianBalancer
from mbrec.balance.solvers.interior import isolate, minimise
from mbrec.balance.solvers.spectrum import cosine_matrix, unit_gramian

# Makes weights unique that apply to other rows than those they are found for.
RIDGE = 1e-7


class MGDA(GramianBalancer):
    """Weights on the simplex that make the norm of the weighted sum smallest.

    w = argmin w' G w over the simplex (He et al. 2024, eq. 2 and 11). The merged gradient has a
    non-negative inner product with every task's, at least its own squared norm. At the
    representation this is MGDA-UB, but for the heads, which keep their own gradients here. The
    smallest gradient gets the largest weight, so a nearly finished task takes over; `normalise`
    counters that. Solved by an interior point method, exactly for norms up to 1e4 apart; with
    norms 1e6 apart, the merged norm may be a third above the smallest. The published solvers stop
    after 250 steps, and keep the weights of a pair between 0.001 and 0.999.

    Args:
        normalise: what the rows are divided by for the solver: "none", "l2" (their norm), "loss",
            or "loss+" (loss times norm). The weights apply to the raw rows, as published. Where
            the divided rows depend on each other, tasks that are the same share their weight.

    Raises:
        ValueError: if an argument is outside its range.

    >>> MGDA(2)(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
    tensor([0.2000, 0.8000], dtype=torch.float64)
    """

    def __init__(self, num_tasks: int, *, normalise: str = "none") -> None:
        super().__init__(num_tasks)
        check_choice("normalise", normalise, ("none", "l2", "loss", "loss+"))
        self.normalise = normalise
        self.needs_losses = normalise.startswith("loss")

    def weigh(
        self, gramian_KK: Tensor, active_K: Tensor, ok: Tensor, losses_K: Tensor | None
    ) -> Tensor:
        """Return the min-norm weights; see `GramianBalancer.weigh`."""
        divisor_K = torch.ones_like(gramian_KK[0])
        if self.normalise in ("l2", "loss+"):
            divisor_K, _ = cosine_matrix(gramian_KK, active_K)
        if self.needs_losses:
            assert losses_K is not None
            divisor_K = divisor_K * torch.where(active_K & (losses_K > 0), losses_K, 1.0)
        unit_KK, _ = unit_gramian(gramian_KK / (divisor_K * divisor_K[:, None]), active_K)
        if self.normalise != "none":
            unit_KK = unit_KK + torch.diag(torch.full_like(divisor_K, RIDGE))
        return min_norm(unit_KK, active_K)


def min_norm(gramian_KK: Tensor, active_K: Tensor) -> Tensor:
    """Return argmin w' G w over the simplex of the active tasks; G has entries of size 1."""
    matrix_KK, cost_K = isolate(gramian_KK, active_K)
    start_K = torch.full_like(cost_K, 1.0 / len(cost_K))
    weights_K = minimise(lambda w_K: (w_K @ matrix_KK + cost_K, matrix_KK), start_K, simplex=True)
    return torch.where(active_K, weights_K, 0.0)
