"""DB-MTL (Lin et al. 2023): every gradient brought to one length."""

import torch
from torch import Tensor

from mbrec.balance.arguments import check_choice, check_number
from mbrec.balance.balancer import GramianBalancer
from mbrec.balance.methods.average_norms import moved_average
from mbrec.balance.solvers.spectrum import cosine_matrix


class DBMTL(GramianBalancer):
    """Rescales the gradients to the same norm, that of a target, and sums them.

    With q_k = 1 / loss_k (`log_loss`) or 1, and r_k = q_k n_k: a_k = T(r) / r_k * q_k. The
    published method averages the gradients themselves over steps (by 0.9); rows of a
    representation are other samples in each, so only their norms can be averaged here. The
    defaults are those of He et al. 2024, who balance magnitudes alone; the published method is
    target="max", log_loss=True. Losses below 1e-8 count as 1e-8.

    Args:
        target: T, over the active tasks: "median" (He et al. 2024 found it the most stable; of an
            even number the mean of the middle two), "max" (published), "min" or "mean".
        log_loss: balance the gradients of the log losses, as published; needs the losses. The
            published form gives these gradients to the heads as well.
        ema_decay: decay of a moving average of r_k, in [0, 1); 0 takes the batch's own.

    Raises:
        ValueError: if an argument is outside its range.

    >>> DBMTL(2, target="max")(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
    tensor([1., 2.], dtype=torch.float64)
    """

    norm_average: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        target: str = "median",
        log_loss: bool = False,
        ema_decay: float = 0.0,
    ) -> None:
        super().__init__(num_tasks)
        check_choice("target", target, ("median", "max", "min", "mean"))
        check_number("ema_decay", ema_decay, low=0.0, below=1.0)
        self.target, self.log_loss, self.ema_decay = target, log_loss, ema_decay
        self.needs_losses = log_loss
        self.register_task_state("norm_average", torch.zeros(num_tasks, dtype=torch.float64))

    def weigh(
        self, gramian_KK: Tensor, active_K: Tensor, ok: Tensor, losses_K: Tensor | None
    ) -> Tensor:
        """Return the weights; see `GramianBalancer.weigh`."""
        norms_K, _ = cosine_matrix(gramian_KK, active_K)
        scale_K = torch.ones_like(norms_K)
        if self.log_loss:
            assert losses_K is not None
            scale_K = 1.0 / losses_K.clamp_min(1e-8)
        lengths_K = scale_K * norms_K
        average_K = moved_average(
            self.norm_average, lengths_K, decay=self.ema_decay, active_K=active_K
        )
        self.norm_average = torch.where(ok, average_K, self.norm_average)
        lengths_K = torch.where(active_K, average_K, 1.0)
        weights_K = self._target(lengths_K, active_K) / lengths_K * scale_K
        return torch.where(active_K, weights_K, 0.0)

    def _target(self, lengths_K: Tensor, active_K: Tensor) -> Tensor:
        count = active_K.sum().clamp_min(1)
        if self.target == "mean":
            return torch.where(active_K, lengths_K, 0.0).sum() / count
        if self.target == "max":
            return torch.where(active_K, lengths_K, 0.0).max()
        ascending_K = lengths_K.masked_fill(~active_K, torch.inf).sort().values
        if self.target == "min":
            return ascending_K[0]
        middle = torch.stack([(count - 1) // 2, count // 2])
        return ascending_K.gather(0, middle).mean()
