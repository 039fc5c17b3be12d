"""Uncertainty weighting (Kendall et al. 2018), on the gradients of the representation."""

import torch
from torch import Tensor

from mbrec.balance.arguments import check_number
from mbrec.balance.balancer import GramianBalancer

# Bounds of the slope towards larger variances, and of the log variance.
STEEPEST, WIDEST = 5.0, 20.0


class Uncertainty(GramianBalancer):
    """Weights f exp(-s_k) with s_k, the log variance, learned on f exp(-s_k) loss_k + s_k / 2.

    The minimum is s_k = log(2 f loss_k): each weight goes to 1 / (2 loss_k). Published as weights
    of the losses with s among the model's parameters; here s is a buffer that takes gradient
    steps of its own in backward, on the global batch's losses, and the heads keep weight 1. A step
    moves s by at most 5 lr, and s stays within 20 of 0. The losses have to be positive.

    Args:
        lr: step size of s, >= 0.
        initial: s at the start (published: 0).
        factor: f: 0.5 (the regression form, usual in libraries) or 1 (the classification form).

    Raises:
        ValueError: if an argument is outside its range.

    >>> losses_K = torch.tensor([0.5, 0.1])
    >>> Uncertainty(2)(torch.eye(2), losses_K=losses_K)
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """

    needs_losses = True
    log_variance: Tensor

    def __init__(
        self, num_tasks: int, *, lr: float = 0.02, initial: float = 0.0, factor: float = 0.5
    ) -> None:
        super().__init__(num_tasks)
        check_number("lr", lr, low=0.0)
        check_number("initial", initial, low=-20.0, below=20.0)
        check_number("factor", factor, low=1e-6)
        self.lr, self.factor = lr, factor
        start_K = torch.full((num_tasks,), initial, dtype=torch.float64)
        self.register_task_state("log_variance", start_K)

    def weigh(
        self, gramian_KK: Tensor, active_K: Tensor, ok: Tensor, losses_K: Tensor | None
    ) -> Tensor:
        """Return the weights, and step on s; see `GramianBalancer.weigh`."""
        assert losses_K is not None
        weights_K = self.factor * (-self.log_variance).exp()
        # Bounded, or one batch with an outlier would silence its task for thousands of steps.
        gradient_K = (0.5 - weights_K * losses_K).clamp_min(-STEEPEST)
        moved_K = (self.log_variance - self.lr * gradient_K).clamp(-WIDEST, WIDEST)
        self.log_variance = torch.where(ok & active_K, moved_K, self.log_variance)
        return torch.where(active_K, weights_K, 0.0)
