"""MoCo (Fernando et al. 2023): min-norm weights of parameter gradients tracked over steps.

Shapes: K tasks, P parameters.
"""

import torch
from torch import Tensor

from mbrec.balance.arguments import check_choice, check_number
from mbrec.balance.backward import gramian
from mbrec.balance.balancer import ParameterBalancer
from mbrec.balance.solvers.simplex import project_to_simplex


class MoCo(ParameterBalancer):
    """A moving average of each task's gradient, and a slowly moving min-norm weight of those.

    y_k <- y_k - beta_t (y_k - h_k); w <- projection on the simplex of w - gamma_t (Y Y' + rho I) w.
    That is the paper's projection; the authors' code has a softmax of the same argument, which
    keeps every weight near 1/K and has another limit. The paper also keeps each y_k inside a ball
    of a bound on its norm; neither the code nor this does. y starts at 0, as in the code.
    The parameters get Y' w, the same on every rank; the rest of the shared part gets the task
    gradients with weights w. The step sizes decay as 1 / sqrt(step). K times the parameters are
    kept as state, and only a module of the bottom can be its target: see `BalanceHook`.

    Args:
        beta: step size of the averages.
        gamma: step size of the weights.
        rho: ridge, >= 0.
        normalise: what h_k is: "loss" (the gradient over its norm, times the loss, as in the
            authors' code; needs the losses) or "none" (the gradient, as in the paper).

    Raises:
        ValueError: if an argument is outside its range.

    >>> balancer = MoCo(2, normalise="none", beta=1.0)
    >>> balancer.track(2)
    >>> weights_K, grad_P = balancer(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    >>> weights_K, grad_P
    (tensor([0.4250, 0.5750], dtype=torch.float64), tensor([0.8500, 0.5750]))
    """

    weight: Tensor
    average: Tensor
    step: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        beta: float = 0.5,
        gamma: float = 0.1,
        rho: float = 0.0,
        normalise: str = "loss",
    ) -> None:
        super().__init__(num_tasks)
        check_number("beta", beta, low=0.0)
        check_number("gamma", gamma, low=0.0)
        check_number("rho", rho, low=0.0)
        check_choice("normalise", normalise, ("loss", "none"))
        self.beta, self.gamma, self.rho, self.normalise = beta, gamma, rho, normalise
        self.needs_losses = normalise == "loss"
        start_K = torch.full((num_tasks,), 1.0 / num_tasks, dtype=torch.float64)
        self.register_task_state("weight", start_K)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def initial_share(self, task: str) -> float:
        """Return 1/K; see `Balancer.initial_share`."""
        return 1.0 / self.num_tasks

    def track(self, num_parameters: int) -> None:
        """Make room for the K averages; see `ParameterBalancer.track`."""
        self.register_task_state("average", torch.zeros(self.num_tasks, num_parameters))

    def forward(
        self,
        grads_KP: Tensor,
        *,
        losses_K: Tensor | None = None,
        active_K: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the weights and the direction; see `ParameterBalancer.forward`."""
        with torch.no_grad():
            raw_KK = gramian.gramian([(row_P,) for row_P in grads_KP])
            gramian_KK, active_K, losses_K = self.check(raw_KK, losses_K, active_K)
            average_KP = self._average(grads_KP, gramian_KK, active_K, losses_K)
            among_KP = torch.where(active_K[:, None], average_KP, 0.0)
            weight_K = self._weight(among_KP, active_K)
            self.weight = torch.where(self.ok, weight_K, self.weight)
            kept_KP = average_KP.to(self.average.dtype)
            self.average = torch.where(self.ok, kept_KP, self.average)
            self.step = self.step + self.ok
            weights_K = torch.where(self.ok & active_K, weight_K, 0.0)
            # A product of matrices would be one of 16 bits under autocast.
            among_KP = torch.where(self.ok, among_KP, 0.0)
            direction_P = (weights_K[:, None].to(among_KP.dtype) * among_KP).sum(0)
            return weights_K, direction_P

    def _rate(self) -> Tensor:
        return (self.step + 1).double().rsqrt()

    def _average(
        self, grads_KP: Tensor, gramian_KK: Tensor, active_K: Tensor, losses_K: Tensor | None
    ) -> Tensor:
        scale_K = torch.ones_like(gramian_KK[0])
        if self.normalise == "loss":
            assert losses_K is not None
            norms_K = torch.where(active_K, gramian_KK.diagonal(), 1.0).sqrt()
            scale_K = losses_K / norms_K
        rate = (self.beta * self._rate()).clamp_max(1.0).to(grads_KP.dtype)
        wanted_KP = grads_KP * scale_K[:, None].to(grads_KP.dtype)
        moved_KP = self.average + rate * (wanted_KP - self.average)
        return torch.where(active_K[:, None], moved_KP, self.average)

    def _weight(self, average_KP: Tensor, active_K: Tensor) -> Tensor:
        gramian_KK = gramian.gramian([(row_P,) for row_P in average_KP])
        weight_K = torch.where(active_K, self.weight, 0.0)
        slope_K = gramian_KK @ weight_K + self.rho * weight_K
        moved_K = weight_K - self.gamma * self._rate() * slope_K
        moved_K = project_to_simplex(moved_K, mass=weight_K.sum(), active_K=active_K)
        return torch.where(active_K, moved_K, self.weight)
