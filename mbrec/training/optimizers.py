"""Optimizers: fused into backward for the tables, Adam for the rest, and a warm-up for both."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad


def fuse_table_optimizer(tables: nn.Module, *, lr: float, eps: float) -> None:
    """Attach row-wise Adagrad to the embedding tables, before they are sharded.

    FBGEMM applies it inside backward, so the tables' gradients are never stored. One backward
    is one update: a method with several backward passes must stop above the tables. A table that
    is sharded data-parallel loses it again (see `CopiedTables`).
    """
    apply_optimizer_in_backward(RowWiseAdagrad, tables.parameters(), {"lr": lr, "eps": eps})


class CopiedTables(KeyedOptimizer):
    """Row-wise Adagrad for tables that each rank has a copy of (data-parallel ones).

    torchrec 1.8 leaves such a table without its fused optimizer, as one of the dense parameters:
    its gradient is stored, and averaged over the ranks. The update is FBGEMM's, with the mean of
    a row's squared gradients and `eps` beside the root, and so is the name of the state: a
    checkpoint is the same under any placement.

    Args:
        params: name in the model (`....TABLE.weight`) -> table.
        lr: learning rate.
        eps: added to the root.
    """

    def __init__(self, params: Mapping[str, Tensor], *, lr: float, eps: float) -> None:
        state = {
            table: {
                f"{name.split('.')[-2]}.momentum1": torch.zeros(len(table), device=table.device)
            }
            for name, table in params.items()
        }
        groups = [{"params": list(params.values()), "lr": lr, "eps": eps}]
        super().__init__(params, state, groups)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients."""
        for table in self.params.values():
            table.grad = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the tables by their gradients."""
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is None:
                    continue
                (momentum,) = self.state[table].values()
                momentum += table.grad.square().mean(1)
                # A row that was never met stays as it is, with eps = 0 too.
                rates = (group["lr"] / (momentum.sqrt() + group["eps"])).where(momentum > 0, 0.0)
                table.addcmul_(table.grad, rates[:, None], value=-1.0)


def combine_optimizers(
    model: DistributedModelParallel, *, dense_lr: float, table_lr: float, table_eps: float
) -> CombinedOptimizer:
    """Return the optimizers of a sharded model: of its tables ("tables"), Adam ("dense").

    The tables have their fused optimizer already; `table_lr` and `table_eps` are for data-parallel
    ones.

    Raises:
        RuntimeError: if a parameter would not be trained by either.
    """
    dense = dict(in_backward_optimizer_filter(model.named_parameters()))
    copied = {name: dense.pop(name) for name in list(dense) if ".embedding_bags." in name}
    tables: KeyedOptimizer = model.fused_optimizer
    if copied:
        copies = CopiedTables(copied, lr=table_lr, eps=table_eps)
        tables = CombinedOptimizer([("", tables), ("", copies)])
    adam = KeyedOptimizerWrapper(dense, lambda params: torch.optim.Adam(params, lr=dense_lr))
    trained = set(dense) | set(tables.params)
    # A table that another rank holds is a parameter without elements here.
    expected = {name for name, parameter in model.named_parameters() if parameter.numel()}
    if lost := sorted(expected - trained):
        raise RuntimeError(f"expected every parameter to have an optimizer, got none for {lost}")
    return CombinedOptimizer([("tables", tables), ("dense", adam)])


class Warmup:
    """Raises all learning rates linearly from lr / warmup_steps to lr.

    The rate of a fused optimizer reaches FBGEMM at the next `zero_grad`, which the pipeline calls
    before backward; so call `step` before each training step.

    Args:
        optimizer: its parameter groups hold the full rates.
        warmup_steps: steps until the full rate; 0 starts with it.
    """

    def __init__(self, optimizer: CombinedOptimizer, warmup_steps: int) -> None:
        self._groups = cast(list[dict[str, Any]], list(optimizer.param_groups))
        self._rates = [float(group["lr"]) for group in self._groups]
        self._warmup_steps = warmup_steps

    def step(self, step: int) -> None:
        """Set the rates of training step `step`, counted from 1."""
        factor = min(1.0, step / self._warmup_steps) if self._warmup_steps else 1.0
        for group, rate in zip(self._groups, self._rates, strict=True):
            group["lr"] = factor * rate


def learning_rates(optimizer: CombinedOptimizer) -> dict[str, float]:
    """Return the rates of the last step, by optimizer."""
    groups = {name: list(part.param_groups) for name, part in optimizer.optimizers}
    return {name: float(parts[0]["lr"]) for name, parts in groups.items() if parts}
