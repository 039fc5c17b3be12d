"""Balancing the gradients of parameters: the K-backward baselines of He et al. 2024, Table 2.

Shapes: K tasks, P parameters of the module. W ranks.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mbrec.balance.backward import gramian, graph
from mbrec.balance.backward.merging import Backward, LossScale, Observed, Result, weigh_rows
from mbrec.balance.backward.ranks import sum_over_ranks, world_size
from mbrec.balance.balancer import GramianBalancer, ParameterBalancer, Row


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
        self._handles: list[RemovableHandle] = []
        self._refuse_fused()
        if isinstance(balancer, ParameterBalancer):
            balancer.track(sum(parameter.numel() for parameter in self._parameters()))

    def step(
        self, rows_K: Sequence[Row], shared: Row, observed: Observed, scale: LossScale
    ) -> Result:
        """See `Backward.step`."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        parameters = self._parameters()
        local_KP = torch.stack([self._gradient(row, shared, parameters) for row in rows_K])
        self.mark("passes")
        grads_KP, losses_K, active_K = self._reduce(local_KP, rows_K, observed, scale)
        gramian_KK = gramian.gramian([(row_P,) for row_P in grads_KP])
        self.mark("gramian")
        if isinstance(self.balancer, ParameterBalancer):
            weights_K, direction_P = self.balancer(grads_KP, losses_K=losses_K, active_K=active_K)
            self._give(direction_P * scale, parameters)
        else:
            weights_K = self.balancer(gramian_KK, losses_K=losses_K, active_K=active_K)
        ok = self.balancer.ok
        self.mark("weights")
        merged = weigh_rows(rows_K, weights_K, ok, scale)
        self.mark("merge")
        return Result(merged, weights_K, ok, gramian_KK, losses_K)

    def _refuse_fused(self) -> None:
        name = type(self._module).__name__
        if fused := graph.fused_parameters(self._module):
            raise ValueError(
                f"expected parameters whose gradients exist, got {name} with {fused[0]}: a fused "
                "table applies each row's gradient inside backward, so the K gradients never "
                "exist side by side, and K backward passes would be K updates; balance at the "
                "representation instead"
            )
        if not self._parameters():
            raise ValueError(f"expected a module with trainable parameters, got {name}")

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self._module.parameters() if parameter.requires_grad]

    def _give(self, direction_P: Tensor, parameters: list[nn.Parameter]) -> None:
        """Put the direction in the place of the gradients that this backward brings next."""
        sizes = [parameter.numel() for parameter in parameters]
        for parameter, part in zip(parameters, direction_P.split(sizes), strict=True):
            # Every rank puts the same there, so a mean over the ranks leaves it as it is.
            once = [part.view_as(parameter).to(parameter.dtype)]
            hook = partial(_replace_once, once)
            self._handles.append(parameter.register_hook(hook))

    def _gradient(self, row: Row, shared: Row, parameters: list[nn.Parameter]) -> Tensor:
        grads = torch.autograd.grad(shared, parameters, row, retain_graph=True, allow_unused=True)
        if unused := [tuple(p.shape) for p, g in zip(parameters, grads, strict=True)
                      if g is None]:  # fmt: skip
            raise ValueError(
                f"expected {type(self._module).__name__} to lie below the representation, got "
                f"parameters of shape {unused[0]} that it does not depend on"
            )
        return torch.cat([gramian.at_least_float32(grad).flatten() for grad in grads])

    def _reduce(
        self, local_KP: Tensor, rows_K: Sequence[Row], observed: Observed, scale: LossScale
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return gradients and losses of the global batch, and which tasks are active."""
        ranks, kind = world_size(self.group), local_KP.dtype
        # A layer between may have dropped a non-finite value that the merge would pass on.
        squares = [gramian.gramian([(part,)]).sum() for row in rows_K for part in row]
        square = torch.stack(squares).sum().to(kind).view(1)
        told = [values_K.to(kind) for values_K in observed if values_K is not None]
        local_n = torch.cat([local_KP.flatten(), square, *told])
        self.mark("gramian")
        total_n = sum_over_ranks(local_n, self.group)
        self.mark("collective")
        sizes = [local_KP.numel(), 1, *(len(values_K) for values_K in told)]
        grads_n, square, *told = total_n.split(sizes)
        grads_KP = grads_n.view_as(local_KP) / (ranks * scale) + (square - square)
        losses_K = told[0] / ranks if observed.losses_K is not None else None
        return grads_KP, losses_K, told[-1] > 0 if observed.counts_K is not None else None


def _replace_once(replacement: list[Tensor], grad: Tensor) -> Tensor | None:
    """Return the replacement in this backward, and nothing in one that passes the hook by."""
    return replacement.pop() if replacement else None
