"""What is kept of a step: packed on the device in one tensor, and taken apart on the host.

Shapes: K tasks, S steps, P numbers kept of a step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from mbrec.balance import BalanceHook


@dataclass(frozen=True)
class Steps:
    """What was kept of S steps.

    Attributes:
        states: of the balancer that have one number a task: name -> (S, K).
        gramian_SKK: inner products of the raw gradients, or None without statistics.
    """

    losses_SK: Tensor
    weights_SK: Tensor
    states: dict[str, Tensor]
    gramian_SKK: Tensor | None

    def figures(self, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Return the figures of each step, (S,), by the names they are written under."""
        by_task = {"loss": self.losses_SK, "weight": self.weights_SK, **self.states}
        figures = {"loss": self.losses_SK.sum(1)}
        if self.gramian_SKK is not None:
            norms_SK = self.gramian_SKK.diagonal(dim1=1, dim2=2).sqrt()
            # A method's own `weight` has taken the place of the weights on the raw gradients.
            by_task["effective_weight"] = self.weights_SK
            by_task["grad_norm"] = norms_SK
            by_task["weighted_norm"] = norms_SK * self.weights_SK
            for i, j in combinations(range(len(tasks)), 2):
                lengths = norms_SK[:, i] * norms_SK[:, j]
                cosine = torch.where(lengths > 0, self.gramian_SKK[:, i, j] / lengths, 0.0)
                figures[f"cosine/{tasks[i]}-{tasks[j]}"] = cosine
        for name, value_SK in by_task.items():
            for task, value in zip(tasks, value_SK.unbind(1), strict=True):
                figures[f"{name}/{task}"] = value
        return figures


def pack(hook: BalanceHook, losses_K: Tensor) -> Tensor:
    """Return what a step's figures are computed from, (P,): one operation, no sync.

    Args:
        hook: after the step.
        losses_K: of this rank; they stand in where the hook has none of all ranks.
    """
    losses_K = losses_K if hook.losses is None else hook.losses
    parts = [losses_K.double(), hook.weights, *hook.balancer.task_states().values()]
    if hook.gramian is not None:
        parts.append(hook.gramian.flatten())
    return torch.cat(parts)


def unpack(hook: BalanceHook, packed_SP: Tensor) -> Steps:
    """Return what `pack` put together."""
    size, names = hook.balancer.num_tasks, list(hook.balancer.task_states())
    losses_SK, weights_SK, *states, rest = packed_SP.tensor_split(
        [size * (index + 1) for index in range(2 + len(names))], 1
    )
    gramian_SKK = rest.reshape(-1, size, size) if rest.shape[1] else None
    return Steps(losses_SK, weights_SK, dict(zip(names, states, strict=True)), gramian_SKK)
