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

    With z = softmax(xi) and D_k = loss_k - min_loss: a_k = c z_k / D_k, sum(a) = 1. xi follows
    Adam steps on how much each log D_k decreases in a step.

    The published method measures that with a second forward pass of the same batch after the
    step. A stream has another batch then, whose losses differ by far more than a step changes
    them. Here the decrease is the one that FAMO's derivation puts there, and that the second pass
    approximates: to first order it is in proportion to (G a)_k / D_k, with G the inner products of
    this batch's gradients. Gradients of the representation stand for those of the parameters, and
    since the size of the step is the optimizer's, the decreases are taken relative to the largest
    that they could be together, and multiplied by `decrease`. On a toy of 400 fresh batches the
    shares z come within 0.06 of the published ones (tests/balance/test_famo.py).

    Published as weights of the losses; here the heads keep their own.

    Args:
        lr: Adam's rate for xi.
        weight_decay: pulls xi to 0 (published: 0.01 in the class, 0.001 in common libraries).
        min_loss: a lower bound of the losses, the same for all tasks.
        decrease: how much the log losses decrease in a step where all gradients agree; only its
            ratio to `weight_decay` counts.

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

    def __init__(
        self,
        num_tasks: int,
        *,
        lr: float = 0.025,
        weight_decay: float = 0.01,
        min_loss: float = 0.0,
        decrease: float = 0.01,
    ) -> None:
        super().__init__(num_tasks)
        check_number("lr", lr, low=0.0)
        check_number("weight_decay", weight_decay, low=0.0)
        check_number("min_loss", min_loss, low=-torch.inf)
        check_number("decrease", decrease, low=0.0)
        self.lr, self.weight_decay = lr, weight_decay
        self.min_loss, self.decrease = min_loss, decrease
        for name in ("logit", "moment", "square", "updates"):
            self.register_task_state(name, torch.zeros(num_tasks, dtype=torch.float64))

    def weigh(
        self, gramian_KK: Tensor, active_K: Tensor, ok: Tensor, losses_K: Tensor | None
    ) -> Tensor:
        """Return the weights, and step on xi; see `GramianBalancer.weigh`."""
        assert losses_K is not None
        distance_K = (losses_K - self.min_loss).clamp_min(0.0) + SMALLEST
        share_K = torch.where(active_K, self.logit.softmax(0), 0.0)
        share_K = share_K / share_K.sum().clamp_min(1e-30)
        ratio_K = share_K / distance_K
        total = ratio_K.sum()
        weights_K = ratio_K / torch.where(total > 0, total, 1.0)
        inner_K = gramian_KK @ weights_K
        # Cauchy-Schwarz: the shares' mean of what a merged gradient of this length can do.
        largest = (weights_K @ inner_K).clamp_min(0.0).sqrt()
        largest = largest * (ratio_K @ gramian_KK.diagonal().sqrt())
        decrease_K = inner_K / distance_K / torch.where(largest > 0, largest, torch.inf)
        self._improve(self.decrease * decrease_K, share_K, ok & active_K)
        return weights_K

    def _improve(self, decrease_K: Tensor, share_K: Tensor, moves_K: Tensor) -> None:
        """Take Adam's step on the decrease of the log losses."""
        gradient_K = share_K * (decrease_K - share_K @ decrease_K) + self.weight_decay * self.logit
        moment_K = BETA_1 * self.moment + (1 - BETA_1) * gradient_K
        square_K = BETA_2 * self.square + (1 - BETA_2) * gradient_K**2
        count_K = self.updates + 1
        unbiased_K = moment_K / (1 - BETA_1**count_K)
        root_K = (square_K / (1 - BETA_2**count_K)).sqrt()
        logit_K = self.logit - self.lr * unbiased_K / (root_K + EPSILON)
        self.logit = torch.where(moves_K, logit_K, self.logit)
        self.moment = torch.where(moves_K, moment_K, self.moment)
        self.square = torch.where(moves_K, square_K, self.square)
        self.updates = torch.where(moves_K, count_K, self.updates)
