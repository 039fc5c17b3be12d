"""Optimizers: fused into backward for the tables, Adam for the rest, and a warm-up for both."""

from typing import Any, cast

import torch
from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad


def fuse_table_optimizer(tables: nn.Module, *, lr: float, eps: float) -> None:
    """Attach row-wise Adagrad to the embedding tables, before they are sharded.

    FBGEMM applies it inside backward, so the tables' gradients are never stored. One backward
    is one update: a method with several backward passes must stop above the tables.
    """
    apply_optimizer_in_backward(RowWiseAdagrad, tables.parameters(), {"lr": lr, "eps": eps})


def combine_optimizers(model: DistributedModelParallel, *, lr: float) -> CombinedOptimizer:
    """Return the fused optimizer of the tables ("tables") and Adam for the rest ("dense").

    Raises:
        RuntimeError: if a parameter would not be trained by either.
    """
    dense = dict(in_backward_optimizer_filter(model.named_parameters()))
    adam = KeyedOptimizerWrapper(dense, lambda params: torch.optim.Adam(params, lr=lr))
    trained = set(dense) | set(model.fused_optimizer.params)
    # A table that another rank holds is a parameter without elements here.
    expected = {name for name, parameter in model.named_parameters() if parameter.numel()}
    if lost := sorted(expected - trained):
        raise RuntimeError(f"expected every parameter to have an optimizer, got none for {lost}")
    return CombinedOptimizer([("tables", model.fused_optimizer), ("dense", adam)])


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
    rates = {}
    for name, part in optimizer.optimizers:
        groups = list(part.param_groups)
        if groups:
            rates[name] = float(groups[0]["lr"])
    return rates
