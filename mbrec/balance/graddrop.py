"""GradDrop (Chen et al. 2020): of each element, one sign, drawn by how much the tasks agree."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mbrec.balance.balancer import ElementwiseBalancer, Row
from mbrec.balance.counter import uniform
from mbrec.balance.merge import at_least_float32


class GradDrop(ElementwiseBalancer):
    """Keeps, of each element, the positive or the negative task gradients, and sums those.

    With P = (1 + sum_k J_k / sum_k |J_k|) / 2 and U uniform, positive elements stay where P > U
    and negative ones where P < U. What is dropped keeps its `leak`. The draws are a function of
    seed, step and place in the global batch (ranks in order, with equally many rows each), so
    they do not depend on the number of ranks.

    Args:
        num_tasks: K.
        marginalise: the published form for batches: the signs come from the sums over the batch
            of J * sign(representation), one draw a feature, the same for all rows. False draws
            for each element by itself, and needs nothing from the other ranks.
        leak: K numbers in [0, 1], the share of what is dropped that stays; default 0.
        seed: of the draws.

    Raises:
        ValueError: if `leak` is not such.

    >>> from mbrec.balance import BalanceHook
    >>> hook = BalanceHook(GradDrop(2, marginalise=False))
    >>> shared_BH = torch.ones(1, 3, requires_grad=True)
    >>> agree_BH, conflict_BH = hook(shared_BH)
    >>> (agree_BH.sum() + (conflict_BH * torch.tensor([1.0, 2.0, -1.0])).sum()).backward()
    >>> shared_BH.grad[0, :2]
    tensor([2., 3.])
    """

    step: Tensor
    leak: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        marginalise: bool = True,
        leak: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(num_tasks)
        leak_K = torch.tensor(list(leak) if leak is not None else [0.0] * num_tasks)
        if leak_K.shape != (num_tasks,) or not bool(((leak_K >= 0) & (leak_K <= 1)).all()):
            raise ValueError(f"expected leak to be {num_tasks} numbers in [0, 1], got {leak}")
        self.marginalise, self.seed = marginalise, seed
        self.register_buffer("leak", leak_K, persistent=False)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def summarise(self, rows_K: Sequence[Row], shared: Row) -> Tensor:
        """Return sum_b J_kb * sign(Z_b), all parts flat; see `ElementwiseBalancer.summarise`."""
        if not self.marginalise:
            return super().summarise(rows_K, shared)
        sums = [
            (grad.double() * part.sign()).sum(0).flatten()
            for row in rows_K
            for grad, part in zip(row, shared, strict=True)
        ]
        return torch.cat(sums)

    def merge(
        self, rows_K: Sequence[Row], summary_n: Tensor, ok: Tensor, *, rank: int
    ) -> tuple[Row, Tensor]:
        """Drop, and sum what is left; see `ElementwiseBalancer.merge`."""
        features = [part[0].numel() if len(part) else 0 for part in rows_K[0]]
        signs_Kn = summary_n.view(self.num_tasks, -1) if self.marginalise else None
        merged, factors, first = [], [], 0
        for number, grads_K in enumerate(zip(*rows_K, strict=True)):
            width = features[number]
            if signs_Kn is None:
                signs_K: Sequence[Tensor] = [at_least_float32(grad) for grad in grads_K]
                start = rank * grads_K[0].numel()
            else:
                shape = (1, *grads_K[0].shape[1:])
                signs_K = [s.view(shape) for s in signs_Kn[:, first : first + width]]
                start = 0
            keep_K = self._keep(signs_K, start, number)
            merged.append(sum(g * f.to(g.dtype) for g, f in zip(grads_K, keep_K, strict=True)))
            factors.append(torch.stack([f.double().mean() for f in keep_K]) * width)
            first += width
        self.step.add_(ok)
        return tuple(merged), torch.stack(factors).sum(0) / max(1, sum(features))

    def _keep(self, signs_K: Sequence[Tensor], start: int, part: int) -> list[Tensor]:
        """Return the factor of each task's elements."""
        total = sum(signs_K[1:], signs_K[0])
        size = sum((s.abs() for s in signs_K[1:]), signs_K[0].abs())
        positive = 0.5 * (1 + torch.where(size > 0, total / size, 0.0))
        index = torch.arange(start, start + total.numel(), device=total.device)
        drawn = uniform(index, seed=self.seed + part, step=self.step).view_as(total)
        keep_up, keep_down = positive > drawn, positive < drawn
        kept = [torch.where(s > 0, keep_up, keep_down & (s < 0)) for s in signs_K]
        return [f + (1 - f) * k for f, k in zip(self.leak.unbind(), kept, strict=True)]
