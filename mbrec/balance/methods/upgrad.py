"""UPGrad (Quinton and Rey 2024): each gradient projected on the cone where no task gets worse."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mbrec.balance.arguments import task_weights
from mbrec.balance.balancer import GramianBalancer
from mbrec.balance.solvers.interior import isolate, minimise
from mbrec.balance.solvers.spectrum import cosine_matrix

# Makes the projection's coefficients unique where rows depend on each other.
RIDGE = 1e-10


class UPGrad(GramianBalancer):
    """The preferred sum of the gradients, each first projected on the dual cone of all of them.

    a = sum_i argmin v' G v over v >= p_i e_i, solved side by side. The merged gradient has a
    non-negative inner product with every task's. The published code adds 1e-4 to the diagonal of
    the Gramian of trace 1; here it is 1e-10 beside cosines.

    Args:
        preference: p, K non-negative numbers with a positive sum, scaled to 1; default uniform.

    Raises:
        ValueError: if `preference` is not such.

    >>> UPGrad(2)(torch.tensor([[1.0, -0.5], [-0.5, 1.0]]))
    tensor([0.7500, 0.7500], dtype=torch.float64)
    """

    preference: Tensor

    def __init__(self, num_tasks: int, *, preference: Sequence[float] | None = None) -> None:
        super().__init__(num_tasks)
        preference_K = task_weights("preference", preference, num_tasks)
        self.register_buffer("preference", preference_K, persistent=False)

    def weigh(
        self, gramian_KK: Tensor, active_K: Tensor, ok: Tensor, losses_K: Tensor | None
    ) -> Tensor:
        """Return the weights; see `GramianBalancer.weigh`."""
        norms_K, cosines_KK = cosine_matrix(gramian_KK, active_K)
        ridge_KK = torch.diag(torch.full_like(norms_K, RIDGE))
        matrix_KK, cost_K = isolate(cosines_KK + ridge_KK, active_K)
        # v_j = p_i (e_ij + x_j n_i / n_j) with x >= 0: row i is problem i, among unit gradients.
        slope_KK = cosines_KK + cost_K
        x_KK = minimise(
            lambda x_KK: (x_KK @ matrix_KK + slope_KK, matrix_KK.expand(*x_KK.shape, -1)),
            torch.ones_like(cosines_KK),
            simplex=False,
        )
        wanted_K = torch.where(active_K, self.preference, 0.0)
        added_K = (wanted_K * norms_K) @ x_KK / norms_K
        return wanted_K + torch.where(active_K, added_K, 0.0)
