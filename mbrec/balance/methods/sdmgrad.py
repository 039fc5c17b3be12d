"""SDMGrad (Xiao et al. 2023): a min-norm direction that stays near a preferred one."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mbrec.balance.arguments import check_count, check_number, task_weights
from mbrec.balance.balancer import GramianBalancer
from mbrec.balance.solvers.simplex import project_to_simplex


class SDMGrad(GramianBalancer):
    """Projected gradient steps with momentum on |g_w + lambda g_w0|^2 / 2, warm-started each batch.

    The method wants independent batches for the two factors of the gradient; here both come from
    the one batch there is. The published step size does not settle: the weights jump about
    the solution; 0.5 or less settles. The merged gradient is (g_w + lambda g_w0) / (1 + lambda).
    The published code adds 1e-4 to each squared norm before the mean norm is taken, and 1e-8 to
    its square; gradients of a representation are smaller than that, so nothing is added here, and
    the weights do not depend on their common size.

    Args:
        lr: step size, on the Gramian over the square of the mean norm and, as published, on twice
            the gradient (published: 10 to 50).
        iterations: steps a batch.
        momentum: of these steps, in [0, 1).
        prior: w0, K non-negative numbers with a positive sum; default uniform.
        prior_strength: lambda, >= 0.
        output_scale: multiplies the merged gradient; the published vision code has K.

    Raises:
        ValueError: if an argument is outside its range.

    >>> balancer = SDMGrad(2, lr=0.1, iterations=500)
    >>> balancer(torch.tensor([[4.0, 0.0], [0.0, 1.0]])).round(decimals=4)
    tensor([0.2000, 0.8000], dtype=torch.float64)
    """

    weight: Tensor
    prior: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        lr: float = 10.0,
        iterations: int = 20,
        momentum: float = 0.5,
        prior: Sequence[float] | None = None,
        prior_strength: float = 0.3,
        output_scale: float = 1.0,
    ) -> None:
        super().__init__(num_tasks)
        check_number("lr", lr, low=0.0)
        check_count("iterations", iterations, low=1)
        check_number("momentum", momentum, low=0.0, below=1.0)
        check_number("prior_strength", prior_strength, low=0.0)
        check_number("output_scale", output_scale, low=0.0)
        self.lr, self.iterations, self.momentum = lr, iterations, momentum
        self.prior_strength, self.output_scale = prior_strength, output_scale
        prior_K = task_weights("prior", prior, num_tasks)
        self.register_buffer("prior", prior_K, persistent=False)
        self.register_task_state("weight", prior_K.clone())

    def initial_share(self, task: str) -> float:
        """Return the prior weight of a task; see `Balancer.initial_share`."""
        return float(self.prior[self.task_names.index(task)])

    def weigh(
        self, gramian_KK: Tensor, active_K: Tensor, ok: Tensor, losses_K: Tensor | None
    ) -> Tensor:
        """Take the inner steps; see `GramianBalancer.weigh`."""
        norms_K = torch.where(active_K, gramian_KK.diagonal(), 0.0).sqrt()
        size = norms_K.sum() / active_K.sum().clamp_min(1)
        # Over the squared mean norm, as published, but without its epsilons: the Gramian of a
        # representation is smaller than they are.
        both_KK = active_K & active_K[:, None]
        unit_KK = torch.where(both_KK, gramian_KK / torch.where(size > 0, size, 1.0) ** 2, 0.0)
        prior_K = torch.where(active_K, self.prior, 0.0)
        weight_K = torch.where(active_K, self.weight, 0.0)
        mass = weight_K.sum()
        velocity_K = torch.zeros_like(weight_K)
        for _ in range(self.iterations):
            gradient_K = 2.0 * unit_KK @ (weight_K + self.prior_strength * prior_K)
            velocity_K = self.momentum * velocity_K + gradient_K
            moved_K = weight_K - self.lr * velocity_K
            weight_K = project_to_simplex(moved_K, mass=mass, active_K=active_K)
        self.weight = torch.where(ok & active_K, weight_K, self.weight)
        output_K = (weight_K + self.prior_strength * prior_K) / (1 + self.prior_strength)
        return self.output_scale * output_K
