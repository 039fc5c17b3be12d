"""ConFIG (Liu et al. 2024): the direction with the same angle to every task's gradient."""

import torch
from torch import Tensor

from mbrec.balance.balancer import GramianBalancer
from mbrec.balance.solvers.spectrum import cosine_matrix, pseudo_inverse_times


class ConFIG(GramianBalancer):
    """A direction with equal cosines to all gradients, as long as their projections on it together.

    With C the cosines, n the norms and v = C^+ 1: q = sqrt(v' C v) and
    a_k = sum_j n_j (C v)_j / q * v_k / (n_k q). Where gradients depend on each other the cosines
    are equal in the sense of least squares, as published; where they have no direction in common
    (C v = 0: opposed gradients of any length, two up and two down), the merged gradient is 0.

    >>> ConFIG(2)(torch.eye(2))
    tensor([1., 1.], dtype=torch.float64)
    """

    def weigh(
        self, gramian_KK: Tensor, active_K: Tensor, ok: Tensor, losses_K: Tensor | None
    ) -> Tensor:
        """Return the weights; see `GramianBalancer.weigh`."""
        norms_K, cosines_KK = cosine_matrix(gramian_KK, active_K)
        solved_K = pseudo_inverse_times(cosines_KK, active_K.double())
        cosine_K = cosines_KK @ solved_K
        square = solved_K @ cosine_K
        defined = square > 0
        length = (norms_K * cosine_K).sum() / torch.where(defined, square, 1.0)
        return torch.where(defined & active_K, length * solved_K / norms_K, 0.0)
