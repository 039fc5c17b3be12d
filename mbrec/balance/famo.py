"""FAMO (Liu et al. 2023): fast adaptive multitask optimization, from the losses alone."""

import torch
from torch import Tensor

from mbrec.balance.arguments import check_number
from mbrec.balance.balancer import GramianBalancer

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
# Keeps the logarithm of a loss that reached its minimum finite.
SMALLEST = 1e-8


class FAMO(GramianBalancer):
    """Weights that let the worst-improving task improve fastest, in logarithms of the losses.

    With z = softmax(xi) and D_k = loss_k - min_losses_k: a_k = c z_k / D_k, sum(a) = 1. xi follows
    Adam steps on how much each log D decreased. The published method measures the decrease by a
    second forward pass of the same batch; here the next batch's losses tell it, which costs
    nothing and is noisier. Published as weights of the losses; here the heads keep their own.

    Args:
        num_tasks: K.
        lr: Adam's rate for xi.
        weight_decay: pulls xi to 0 (published: 0.01 in the class, 0.001 in common libraries).
        min_loss: a lower bound of the losses, the same for all tasks.

    Raises:
        ValueError: if an argument is outside its range.

    >>> FAMO(2)(torch.eye(2), losses_K=torch.tensor([0.75, 0.25]))
    tensor([0.2500, 0.7500], dtype=torch.float64)
    """

    needs_losses = True
    logit: Tensor
    moment: Tensor
    square: Tensor
    updates: Tensor
    last_log_loss: Tensor
    seen: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        lr: float = 0.025,
        weight_decay: float = 0.01,
        min_loss: float = 0.0,
    ) -> None:
        super().__init__(num_tasks)
        check_number("lr", lr, low=0.0)
        check_number("weight_decay", weight_decay, low=0.0)
        check_number("min_loss", min_loss, low=-torch.inf)
        self.lr, self.weight_decay, self.min_loss = lr, weight_decay, min_loss
        for name in ("logit", "moment", "square", "updates", "last_log_loss", "seen"):
            self.register_task_state(name, torch.zeros(num_tasks, dtype=torch.float64))

    def weigh(
        self, gramian_KK: Tensor, active_K: Tensor, ok: Tensor, losses_K: Tensor | None
    ) -> Tensor:
        """Return the weights, and step on xi; see `GramianBalancer.weigh`."""
        assert losses_K is not None
        distance_K = (losses_K - self.min_loss).clamp_min(0.0) + SMALLEST
        self._improve(distance_K.log(), active_K, ok)
        ratio_K = torch.where(active_K, self.logit.softmax(0) / distance_K, 0.0)
        total = ratio_K.sum()
        return ratio_K / torch.where(total > 0, total, 1.0)

    def _improve(self, log_loss_K: Tensor, active_K: Tensor, ok: Tensor) -> None:
        """Take Adam's step on the decrease since the last batch that had the task."""
        moves_K = ok & active_K & (self.seen > 0)
        decrease_K = torch.where(moves_K, self.last_log_loss - log_loss_K, 0.0)
        share_K = torch.where(moves_K, self.logit.softmax(0), 0.0)
        share_K = share_K / share_K.sum().clamp_min(1e-30)
        gradient_K = share_K * (decrease_K - share_K @ decrease_K) + self.weight_decay * self.logit
        moment_K = BETA_1 * self.moment + (1 - BETA_1) * gradient_K
        square_K = BETA_2 * self.square + (1 - BETA_2) * gradient_K**2
        count_K = self.updates + 1
        unbiased_K = moment_K / (1 - BETA_1**count_K)
        root_K = (square_K / (1 - BETA_2**count_K)).sqrt()
        logit_K = self.logit - self.lr * unbiased_K / (root_K + EPSILON)
        for state, value_K in (
            (self.logit, logit_K),
            (self.moment, moment_K),
            (self.square, square_K),
            (self.updates, count_K),
        ):
            state.copy_(torch.where(moves_K, value_K, state))
        told_K = ok & active_K
        self.last_log_loss.copy_(torch.where(told_K, log_loss_K, self.last_log_loss))
        self.seen.copy_(torch.where(told_K, 1.0, self.seen))
