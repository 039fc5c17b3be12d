"""The autograd node of the hook: K views forward, one merged gradient backward.

Shapes: K tasks.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mbrec.balance.balancer import Row

# The K gradients, and the representation where it is kept -> one gradient.
Merge = Callable[[list[Row], Row], Row]


class FanOut(torch.autograd.Function):
    """Gives K views of each part of a representation, and merges their gradients."""

    @staticmethod
    def forward(
        ctx: Any, merge: Merge, num_tasks: int, keep: bool, *parts: Tensor
    ) -> tuple[Tensor, ...]:
        """Return one view of each part, K times over; no copy."""
        ctx.merge, ctx.num_tasks = merge, num_tasks
        if keep:
            ctx.save_for_backward(*parts)
        return tuple(part.view_as(part) for _ in range(num_tasks) for part in parts)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] (as torch documents it)
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Return the merged gradient of each part."""
        size = len(grads) // ctx.num_tasks
        rows_K = [grads[k * size : (k + 1) * size] for k in range(ctx.num_tasks)]
        return (None, None, None, *ctx.merge(rows_K, ctx.saved_tensors))
