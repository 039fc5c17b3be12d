"""GradCraft (Bai et al. 2024): magnitudes brought closer, conflicts removed all at once."""

import torch
from torch import Tensor

from mbrec.balance.arguments import check_number
from mbrec.balance.balancer import GramianBalancer
from mbrec.balance.methods.average_norms import moved_average
from mbrec.balance.solvers.spectrum import cosine_matrix

# Keeps the equations solvable where two conflicting gradients are the same.
RIDGE = 1e-12


class GradCraft(GramianBalancer):
    """Norms moved towards the largest; then each gradient made orthogonal to all it conflicts with.

    Row k is scaled by r max(n) / n_k + 1 - r. With S the tasks that row i then conflicts with, row
    i gets sum_S x_j z_j such that its inner product with each j in S is margin n_i n_j. The merged
    gradient is the mean over i of the published code, whose option of a sum is never reached; a sum
    is K times as long. With `ema_decay` the n_k are moving averages that start at the first norm a
    task has, where the code starts them at 0: a task that comes later is then not taken for a tiny
    one, and without a decay, as published, the two are the same.

    Args:
        rate: r, in [0, 1].
        ema_decay: decay of the moving average of the norms, in [0, 1); 0 in the published runs.
        margin: the inner product over the norms that a conflicting pair ends with.

    Raises:
        ValueError: if an argument is outside its range.

    >>> GradCraft(2)(torch.tensor([[1.0, -0.5], [-0.5, 1.0]]))
    tensor([0.7500, 0.7500], dtype=torch.float64)
    """

    norm_average: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        rate: float = 0.1,
        ema_decay: float = 0.0,
        margin: float = 1e-10,
    ) -> None:
        super().__init__(num_tasks)
        check_number("rate", rate, low=0.0, below=1.0 + 1e-9)
        check_number("ema_decay", ema_decay, low=0.0, below=1.0)
        check_number("margin", margin, low=0.0)
        self.rate, self.ema_decay, self.margin = rate, ema_decay, margin
        self.register_task_state("norm_average", torch.zeros(num_tasks, dtype=torch.float64))

    def weigh(
        self, gramian_KK: Tensor, active_K: Tensor, ok: Tensor, losses_K: Tensor | None
    ) -> Tensor:
        """Return the mean of the tasks' coefficients; see `GramianBalancer.weigh`."""
        norms_K, cosines_KK = cosine_matrix(gramian_KK, active_K)
        average_K = moved_average(
            self.norm_average, norms_K, decay=self.ema_decay, active_K=active_K
        )
        self.norm_average = torch.where(ok, average_K, self.norm_average)
        largest = torch.where(active_K, average_K, 0.0).max()
        scale_K = self.rate * largest / torch.where(active_K, average_K, 1.0) + 1 - self.rate
        # Everything is linear in the rows, so the equations are solved for unit rows.
        conflict_KK = cosines_KK < 0
        among_KKK = conflict_KK[:, :, None] & conflict_KK[:, None, :]
        identity_KK = torch.eye(self.num_tasks, dtype=torch.float64, device=gramian_KK.device)
        system_KKK = torch.where(among_KKK, cosines_KK, 0.0)
        system_KKK = system_KKK + torch.where(conflict_KK, RIDGE, 1.0)[:, :, None] * identity_KK
        side_KK = torch.where(conflict_KK, self.margin - cosines_KK, 0.0)
        added_KK, _ = torch.linalg.solve_ex(system_KKK, side_KK)
        # Row i, in units of its own length after scaling, on the raw gradients.
        lengths_K = norms_K * scale_K
        unit_KK = lengths_K[:, None] * (identity_KK + added_KK) / norms_K
        unit_KK = torch.where(active_K & active_K[:, None], unit_KK, 0.0)
        return unit_KK.sum(0) / active_K.sum().clamp_min(1)
