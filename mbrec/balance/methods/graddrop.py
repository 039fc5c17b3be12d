"""GradDrop (Chen et al. 2020): of each element, one sign, drawn by how much the tasks agree."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mbrec.balance.backward.gramian import at_least_float32
from mbrec.balance.balancer import ElementwiseBalancer, Row
from mbrec.balance.solvers.counter import uniform


class GradDrop(ElementwiseBalancer):
    """Keeps, of each element, the positive or the negative task gradients, and sums those.

    With P = (1 + sum_k J_k / sum_k |J_k|) / 2 and U uniform, positive elements stay where P > U
    and negative ones where P < U. What is dropped keeps its `leak`. The draws are a function of
    seed, step and place in the global batch (ranks in order, with equally many rows each), so
    they do not depend on the number of ranks.

    Args:
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
        self._kept: list[list[Tensor]] = []
        self.register_buffer("leak", leak_K, persistent=False)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def summarise(self, rows_K: Sequence[Row], shared: Row, *, rank: int) -> Tensor:
        """Return what the ranks add up; see `ElementwiseBalancer.summarise`.

        Marginalised: sum_b J_kb * sign(Z_b), all parts flat. Else the draws are this rank's own,
        and only their sums by task and the number of elements are for the others to know.
        """
        parts = list(zip(*rows_K, strict=True))
        if self.marginalise:
            signs = [part.sign() for part in shared]
            sums = [
                (at_least_float32(grad) * sign).sum(0, dtype=torch.float64).flatten()
                for row in rows_K
                for grad, sign in zip(row, signs, strict=True)
            ]
            return torch.cat(sums)
        self._kept = [
            self._keep([at_least_float32(g) for g in grads_K], rank * grads_K[0].numel(), number)
            for number, grads_K in enumerate(parts)
        ]
        count = sum(grads_K[0].numel() for grads_K in parts)
        totals_K = torch.stack([_sums(kept_K) for kept_K in self._kept]).sum(0)
        return torch.cat([totals_K, torch.full_like(totals_K[:1], count)])

    def merge(self, rows_K: Sequence[Row], summary_n: Tensor, ok: Tensor) -> tuple[Row, Tensor]:
        """Drop, and sum what is left; see `ElementwiseBalancer.merge`."""
        parts = list(zip(*rows_K, strict=True))
        if self.marginalise:
            shapes = [(1, *grads_K[0].shape[1:]) for grads_K in parts]
            signs = summary_n.view(self.num_tasks, -1).split([math.prod(s) for s in shapes], 1)
            kept = [
                self._keep([row.view(shape) for row in signs_Kn], 0, number)
                for number, (signs_Kn, shape) in enumerate(zip(signs, shapes, strict=True))
            ]
            count = sum(math.prod(shape) for shape in shapes)
            factors_K = torch.stack([_sums(kept_K) for kept_K in kept]).sum(0) / max(1, count)
        else:
            kept, self._kept = self._kept, []
            factors_K = summary_n[:-1] / summary_n[-1]
        self.step = self.step + ok
        pairs = zip(parts, kept, strict=True)
        return tuple(_weighted(grads_K, kept_K) for grads_K, kept_K in pairs), factors_K

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


def _sums(kept_K: Sequence[Tensor]) -> Tensor:
    return torch.stack([kept.double().sum() for kept in kept_K])


def _weighted(grads_K: Sequence[Tensor], kept_K: Sequence[Tensor]) -> Tensor:
    merged = grads_K[-1] * kept_K[-1].to(grads_K[-1].dtype)
    for grad, kept in zip(grads_K[:-1], kept_K[:-1], strict=True):
        merged.addcmul_(grad, kept.to(grad.dtype))
    return merged
