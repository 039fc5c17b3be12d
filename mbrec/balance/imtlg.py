"""IMTL-G (Liu et al. 2021): equal projections of the merged gradient on all tasks."""

import torch
from torch import Tensor

from mbrec.balance.balancer import GramianBalancer
from mbrec.balance.spectrum import cosine_matrix, pseudo_inverse_times, uniform_over


class IMTLG(GramianBalancer):
    """Weights, summing to 1, under which every task's unit gradient has the same projection.

    a = v / sum(v) with v_k = (C^+ 1)_k / n_k, C the cosines and n the norms: the published
    closed form in terms of inner products. Weights may be negative or large, where gradients
    nearly depend on each other; where no solution has a sum, they are uniform.

    Args:
        num_tasks: K.

    >>> IMTLG(2)(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))  # in proportion to 1 / norm
    tensor([0.3333, 0.6667], dtype=torch.float64)
    """

    def weigh(
        self, gramian_KK: Tensor, active_K: Tensor, ok: Tensor, losses_K: Tensor | None
    ) -> Tensor:
        """Return the weights; see `GramianBalancer.weigh`."""
        norms_K, cosines_KK = cosine_matrix(gramian_KK, active_K)
        solved_K = pseudo_inverse_times(cosines_KK, active_K.double())
        solved_K = torch.where(active_K, solved_K / norms_K, 0.0)
        total = solved_K.sum()
        defined = total.abs() > 1e-12 * solved_K.abs().sum()
        return torch.where(
            defined, solved_K / torch.where(defined, total, 1.0), uniform_over(active_K)
        )
