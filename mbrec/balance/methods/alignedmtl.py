"""Aligned-MTL (Senushkin et al. 2023): gradients made orthogonal, and equally long."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mbrec.balance.arguments import check_choice, task_weights
from mbrec.balance.balancer import GramianBalancer
from mbrec.balance.solvers.spectrum import eigh, nonzero, unit_gramian


class AlignedMTL(GramianBalancer):
    """Weights under which the gradients act like an orthogonal system of one length.

    With G = V L V', a = sigma V L^-1/2 V' p. sigma^2 is the smallest eigenvalue ("min", as
    published), the median, or the mean ("rmse"). p sums to 1; the published code sums the tasks,
    and its gradient is K times as long. A task whose gradient nearly vanishes makes the
    smallest eigenvalue, and with "min" the whole update, vanish as well.

    Args:
        preference: p, K non-negative numbers with a positive sum, scaled to 1; default uniform.
        scale_mode: "min", "median" or "rmse".

    Raises:
        ValueError: if an argument is outside its range.

    >>> AlignedMTL(2)(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
    tensor([0.2500, 0.5000], dtype=torch.float64)
    """

    preference: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        preference: Sequence[float] | None = None,
        scale_mode: str = "min",
    ) -> None:
        super().__init__(num_tasks)
        check_choice("scale_mode", scale_mode, ("min", "median", "rmse"))
        self.scale_mode = scale_mode
        preference_K = task_weights("preference", preference, num_tasks)
        self.register_buffer("preference", preference_K, persistent=False)

    def weigh(
        self, gramian_KK: Tensor, active_K: Tensor, ok: Tensor, losses_K: Tensor | None
    ) -> Tensor:
        """Return the weights; see `GramianBalancer.weigh`."""
        unit_KK, _ = unit_gramian(gramian_KK, active_K)
        values_K, vectors_KK = eigh(unit_KK)
        kept_K = nonzero(values_K)
        wanted_K = torch.where(active_K, self.preference, 0.0)
        inverse_K = torch.where(kept_K, values_K, 1.0).rsqrt()
        turned_K = torch.where(kept_K, inverse_K * (vectors_KK.mT @ wanted_K), 0.0)
        weights_K = self._scale(values_K, kept_K).sqrt() * (vectors_KK @ turned_K)
        return torch.where(active_K, weights_K, 0.0)

    def _scale(self, values_K: Tensor, kept_K: Tensor) -> Tensor:
        count = kept_K.sum().clamp_min(1)
        if self.scale_mode == "rmse":
            return torch.where(kept_K, values_K, 0.0).sum() / count
        ascending_K = values_K.masked_fill(~kept_K, torch.inf).sort().values
        place = (count - 1) // 2 if self.scale_mode == "median" else torch.zeros_like(count)
        chosen = ascending_K.gather(0, place.view(1)).squeeze(0)
        return torch.where(kept_K.any(), chosen, 0.0)
