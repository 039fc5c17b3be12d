"""Balancing the gradients of parameters: the K-backward baselines of He et al. 2024, Table 2.

Shapes: K tasks, P parameters of the module. W ranks.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mbrec.balance import graph, merge
from mbrec.balance.backward import Backward, LossScale, Observed, Result, weigh_rows
from mbrec.balance.balancer import GramianBalancer, ParameterBalancer, Row
from mbrec.balance.ranks import sum_over_ranks, world_size


class ParameterBackward(Backward):
    """Takes each of the K gradients down to a module, and balances what arrives there.

    One vector-Jacobian product a task, inside the one backward pass: only what lies between the
    representation and the module is differentiated, so no embedding table is touched. The
    parameters' gradients are averaged over the ranks before their Gramian is taken. Everything
    shared outside the module gets the task gradients with the same weights.

    Raises:
        ValueError: if the module has no parameters, or they are updated inside backward.
    """

    reads_representation = True

    def __init__(
        self,
        balancer: GramianBalancer | ParameterBalancer,
        group: dist.ProcessGroup | None,
        module: nn.Module,
    ) -> None:
        super().__init__(balancer, group)
        self._module = module
        self._parameters: list[nn.Parameter] = []
        self._direction: tuple[Tensor, ...] | None = None
        self._refuse_fused()

    def step(
        self, rows_K: Sequence[Row], shared: Row, observed: Observed, scale: LossScale
    ) -> Result:
        """See `Backward.step`."""
        if not self._parameters:
            self._find_parameters(shared[0].device)
        self._direction = None
        local_KP = torch.stack([self._gradient(row, shared) for row in rows_K])
        grads_KP, losses_K = self._reduce(local_KP, rows_K, observed, scale)
        gramian_KK = merge.gramian([(row_P,) for row_P in grads_KP])
        active_K = observed.active_K
        if isinstance(self.balancer, ParameterBalancer):
            weights_K, direction_P = self.balancer(grads_KP, losses_K=losses_K, active_K=active_K)
            sizes = [parameter.numel() for parameter in self._parameters]
            self._direction = (direction_P * scale).split(sizes)
        else:
            weights_K = self.balancer(gramian_KK, losses_K=losses_K, active_K=active_K)
        ok = self.balancer.ok
        return Result(weigh_rows(rows_K, weights_K, ok), weights_K, ok, gramian_KK, losses_K)

    def _refuse_fused(self) -> None:
        name = type(self._module).__name__
        if fused := graph.fused_parameters(self._module):
            raise ValueError(
                f"expected parameters whose gradients exist, got {name} with {fused[0]}: a fused "
                "table applies each row's gradient inside backward, so the K gradients never "
                "exist side by side, and K backward passes would be K updates; balance at the "
                "representation instead"
            )
        if not any(p.requires_grad for p in self._module.parameters()):
            raise ValueError(f"expected a module with trainable parameters, got {name}")

    def _find_parameters(self, device: torch.device) -> None:
        self._refuse_fused()
        self._parameters = [p for p in self._module.parameters() if p.requires_grad]
        if isinstance(self.balancer, ParameterBalancer):
            self.balancer.track(sum(p.numel() for p in self._parameters), device)
            for index, parameter in enumerate(self._parameters):
                parameter.register_hook(partial(self._replace, index))

    def _replace(self, index: int, grad: Tensor) -> Tensor | None:
        # Every rank puts the same direction here, so a mean over ranks leaves it as it is.
        if self._direction is None:
            return None
        return self._direction[index].view_as(grad).to(grad.dtype)

    def _gradient(self, row: Row, shared: Row) -> Tensor:
        grads = torch.autograd.grad(
            shared, self._parameters, row, retain_graph=True, allow_unused=True
        )
        if unused := [tuple(p.shape) for p, g in zip(self._parameters, grads, strict=True)
                      if g is None]:  # fmt: skip
            raise ValueError(
                f"expected {type(self._module).__name__} to lie below the representation, got "
                f"parameters of shape {unused[0]} that it does not depend on"
            )
        return torch.cat([merge.at_least_float32(grad).flatten() for grad in grads])

    def _reduce(
        self, local_KP: Tensor, rows_K: Sequence[Row], observed: Observed, scale: LossScale
    ) -> tuple[Tensor, Tensor | None]:
        num_tasks, ranks = len(rows_K), world_size(self.group)
        # A layer between may have dropped a non-finite value that the merge would pass on.
        squares = [merge.gramian([(part,)]).sum() for row in rows_K for part in row]
        parts = [local_KP.flatten(), torch.stack(squares).sum().to(local_KP.dtype).view(1)]
        if observed.losses_K is not None:
            parts.append(observed.losses_K.to(local_KP.dtype))
        total_n = sum_over_ranks(torch.cat(parts), self.group)
        size = local_KP.numel()
        square = total_n[size]
        grads_KP = total_n[:size].view_as(local_KP) / (ranks * scale) + (square - square)
        losses_K = total_n[size + 1 :] / ranks if observed.losses_K is not None else None
        assert losses_K is None or losses_K.numel() == num_tasks
        return grads_KP, losses_K
