"""IMTL-G (Liu et al. 2021): equal projections of the merged gradient on all tasks."""

import torch
from torch import Tensor

from mbrec.balance.balancer import GramianBalancer
from mbrec.balance.solvers.spectrum import cosine_matrix, pseudo_inverse_times


class IMTLG(GramianBalancer):
    """Weights, summing to 1, under which every task's unit gradient has the same projection.

    a = v / sum(v) with v_k = (C^+ 1)_k / n_k, C the cosines and n the norms: the published
    closed form in terms of inner products. Weights may be negative or large, where gradients
    nearly depend on each other. Where they have no direction in common (C^+ 1 = 0: opposed
    gradients, two up and two down), the equal projections are 0, and a_k goes as 1 / n_k, which
    merges to 0. Published beside IMTL-L, which scales the losses as well; that part is not here.

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
        # Any v in the null space of C has equal projections; all ones are in it if C^+ 1 = 0.
        inverse_K = torch.where(active_K, 1.0 / norms_K, 0.0)
        total = solved_K.sum()
        defined = total.abs() > 1e-12 * solved_K.abs().sum()
        solved_K = torch.where(defined, solved_K, inverse_K)
        total = solved_K.sum()
        return solved_K / torch.where(total != 0, total, 1.0)
