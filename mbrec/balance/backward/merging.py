"""What happens in backward once the K gradients have arrived at the boundary.

Shapes: K tasks, W ranks, n numbers that are summed over the ranks.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from mbrec.balance.backward import gramian
from mbrec.balance.backward.ranks import rank_of, start_sum, sum_over_ranks, world_size
from mbrec.balance.backward.spans import Marks, Part
from mbrec.balance.balancer import Balancer, ElementwiseBalancer, GramianBalancer, Row

LossScale = float | Tensor
# The task state that a lag adds to a balancer.
LAGGED = "lagged_weight"


class Observed(NamedTuple):
    """What is known of this rank's batch; counts may be those of the global batch as well."""

    losses_K: Tensor | None = None
    counts_K: Tensor | None = None


class Statistics(NamedTuple):
    """What the ranks know together."""

    gramian_KK: Tensor
    losses_K: Tensor | None
    active_K: Tensor | None
    rest_n: Tensor


class Result(NamedTuple):
    """What a backward pass leaves in the hook; `local_KK` is this rank's own Gramian."""

    merged: Row
    weights_K: Tensor
    ok: Tensor
    gramian_KK: Tensor | None
    losses_K: Tensor | None
    local_KK: Tensor | None = None


class Backward:
    """One kind of backward: statistics, sum over the ranks, weights, merge.

    Attributes:
        marks: called with each part of the work as it ends, or None.
    """

    # Whether `step` wants the representation itself.
    reads_representation = False
    # Whether `ok` is the verdict of all ranks.
    decides_together = True

    def __init__(self, balancer: Balancer, group: dist.ProcessGroup | None) -> None:
        self.balancer = balancer
        self.group = group
        self.marks: Marks | None = None

    def mark(self, part: Part) -> None:
        """Say that a part of the work has just ended."""
        if self.marks is not None:
            self.marks(part)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Backward":
        # A process group cannot be copied; a copy of a model shares its group.
        memo[id(self.group)] = self.group
        twin = memo[id(self)] = object.__new__(type(self))
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin

    def step(
        self, rows_K: Sequence[Row], shared: Row, observed: Observed, scale: LossScale
    ) -> Result:
        """Return the merged gradient and the statistics.

        Args:
            rows_K: this rank's K gradients.
            shared: the representation, where `reads_representation`; else empty.
            scale: the loss scale that the rows carry.
        """
        raise TypeError(f"{type(self).__name__} does not implement step")

    def saved(self) -> list[Any]:
        """Return what a step changes, for `take_back`; no copy, as state changes by assignment."""
        modules = self.balancer.modules()
        return [(module, dict(module.named_buffers(recurse=False))) for module in modules]

    def take_back(self, saved: list[Any]) -> None:
        """Put back what `saved` gave."""
        for module, buffers in saved:
            for name, buffer in buffers.items():
                setattr(module, name, buffer)

    def finish(self) -> None:
        """Bring the balancer's state up to date, where a step leaves something under way."""

    def forget(self) -> None:
        """Drop what is under way: another state is loaded."""


class GramianBackward(Backward):
    """The ordinary kind: weights of this batch on the gradients of this batch."""

    balancer: GramianBalancer

    def step(
        self, rows_K: Sequence[Row], shared: Row, observed: Observed, scale: LossScale
    ) -> Result:
        """See `Backward.step`."""
        local_KK = gramian.gramian(rows_K)
        local_n = pack(local_KK, observed)
        self.mark("gramian")
        total_n = sum_over_ranks(local_n, self.group)
        self.mark("collective")
        found = unpack(total_n, len(rows_K), observed, self.group, scale)
        gramian_KK, losses_K = found.gramian_KK, found.losses_K
        weights_K = self.balancer(gramian_KK, losses_K=losses_K, active_K=found.active_K)
        self.mark("weights")
        merged = weigh_rows(rows_K, weights_K, self.balancer.ok, scale)
        self.mark("merge")
        return Result(merged, weights_K, self.balancer.ok, gramian_KK, losses_K, local_KK)


@dataclass
class _UnderWay:
    wait: Callable[[], Tensor]
    observed: Observed
    scale: LossScale


class LaggedBackward(Backward):
    """Weights of the step before: the collective has the rest of backward to finish.

    The weights that the next step will use are a task state of the balancer, so that they are
    saved with it; the first are those of orthonormal gradients.
    """

    balancer: GramianBalancer
    decides_together = False

    def __init__(
        self, balancer: GramianBalancer, group: dist.ProcessGroup | None, accumulate: int
    ) -> None:
        super().__init__(balancer, group)
        device = next((buffer.device for buffer in balancer.buffers()), torch.device("cpu"))
        eye_KK = torch.eye(balancer.num_tasks, dtype=torch.float64, device=device)
        first_K: Tensor = copy.deepcopy(balancer).forward(
            eye_KK, losses_K=torch.ones_like(eye_KK[0])
        )
        balancer.register_task_state(LAGGED, first_K)
        self._accumulate = accumulate
        self._micro_batches = 0
        self._local_n: Tensor | None = None
        self._observed = Observed()
        self._under_way: _UnderWay | None = None
        self._gramian_KK: Tensor | None = None
        self._losses_K: Tensor | None = None

    @property
    def _lagged_weight(self) -> Tensor:
        return self.balancer.get_buffer(LAGGED)

    def step(
        self, rows_K: Sequence[Row], shared: Row, observed: Observed, scale: LossScale
    ) -> Result:
        """See `Backward.step`; statistics add up until the last micro-batch of a step."""
        if self._micro_batches == 0:
            self.finish()
        local_KK = gramian.gramian(rows_K)
        local_n = pack(local_KK, observed)
        ok = torch.isfinite(local_n).all()
        if self._local_n is None:
            self._local_n, self._observed = local_n, observed
        elif len(local_n) != len(self._local_n):
            raise ValueError("expected observe() to be told the same on each micro-batch of a step")
        else:
            self._local_n = self._local_n + local_n
        # Before this step's own statistics may change it.
        weights_K = self._lagged_weight
        self._micro_batches += 1
        self.mark("gramian")
        if self._micro_batches == self._accumulate:
            wait = start_sum(self._local_n, self.group)
            self.mark("collective")
            # A GradScaler changes its tensor in place, before the sum is there.
            kept = scale.clone() if isinstance(scale, Tensor) else scale
            self._under_way = _UnderWay(wait, self._observed, kept)
            self._micro_batches, self._local_n = 0, None
            if self._gramian_KK is None:
                # Once, so that there is something to show from the first step on.
                self.finish()
        merged = weigh_rows(rows_K, weights_K, ok, scale)
        self.mark("merge")
        return Result(merged, weights_K, ok, self._gramian_KK, self._losses_K, local_KK)

    def saved(self) -> list[Any]:
        """See `Backward.saved`; the step before is finished first, and stays so."""
        if self._micro_batches == 0:
            self.finish()
        fields = (self._micro_batches, self._local_n, self._observed)
        return [*super().saved(), fields, (self._gramian_KK, self._losses_K)]

    def take_back(self, saved: list[Any]) -> None:
        """See `Backward.take_back`; drops the statistics that are under way since."""
        *buffers, fields, shown = saved
        self.forget()
        super().take_back(buffers)
        self._micro_batches, self._local_n, self._observed = fields
        self._gramian_KK, self._losses_K = shown

    def finish(self) -> None:
        """Wait for the statistics under way, and give them to the balancer.

        Raises:
            RuntimeError: in the middle of a step.
        """
        if self._micro_batches:
            raise RuntimeError(
                f"expected the end of a step of {self._accumulate} micro-batches, got here after "
                f"{self._micro_batches}"
            )
        if self._under_way is None:
            return
        sent, self._under_way = self._under_way, None
        num_tasks = self.balancer.num_tasks
        total_n = sent.wait()
        self.mark("collective")
        found = unpack(total_n, num_tasks, sent.observed, self.group, sent.scale)
        self._gramian_KK, self._losses_K = found.gramian_KK, found.losses_K
        weights_K = self.balancer.forward(
            found.gramian_KK, losses_K=found.losses_K, active_K=found.active_K
        )
        kept_K = torch.where(self.balancer.ok, weights_K, self._lagged_weight)
        setattr(self.balancer, LAGGED, kept_K)
        self.mark("weights")

    def forget(self) -> None:
        """Drop statistics under way and micro-batches counted; see `Backward.forget`."""
        if self._under_way is not None:
            self._under_way.wait()
        self._under_way, self._local_n, self._micro_batches = None, None, 0


class ElementwiseBackward(Backward):
    """For methods that merge element by element."""

    balancer: ElementwiseBalancer
    reads_representation = True

    def step(
        self, rows_K: Sequence[Row], shared: Row, observed: Observed, scale: LossScale
    ) -> Result:
        """See `Backward.step`; the Gramian is there for the finite check and for a monitor."""
        summary_n = self.balancer.summarise(rows_K, shared, rank=rank_of(self.group))
        local_KK = gramian.gramian(rows_K)
        local_n = pack(local_KK, observed, summary_n)
        self.mark("gramian")
        total_n = sum_over_ranks(local_n, self.group)
        self.mark("collective")
        found = unpack(total_n, len(rows_K), observed, self.group, scale)
        self.balancer.check(found.gramian_KK, found.losses_K, found.active_K)
        ok = self.balancer.ok
        self.mark("weights")
        parts, factors_K = self.balancer.merge(rows_K, found.rest_n, ok)
        merged = tuple(gramian.filled_unless(ok, part, filler(scale)) for part in parts)
        weights_K = torch.where(ok, factors_K, 0.0)
        self.mark("merge")
        return Result(merged, weights_K, ok, found.gramian_KK, found.losses_K, local_KK)


def pack(gramian_KK: Tensor, observed: Observed, *rest: Tensor) -> Tensor:
    """Return this rank's numbers in one float64 tensor."""
    told = [values_K.double() for values_K in observed if values_K is not None]
    return torch.cat([gramian_KK.flatten(), *rest, *told])


def unpack(
    total_n: Tensor,
    num_tasks: int,
    observed: Observed,
    group: dist.ProcessGroup | None,
    scale: LossScale,
) -> Statistics:
    """Return the statistics from the sum over the ranks of what `pack` gave."""
    # A loss is the mean of the ranks' losses, so each rank's rows carry 1/W (hence 1/W^2).
    ranks, squares = world_size(group), num_tasks**2
    told = [num_tasks for values_K in observed if values_K is not None]
    rest = len(total_n) - squares - sum(told)
    gramian_n, rest_n, *told_K = total_n.split([squares, rest, *told])
    gramian_KK = gramian_n.view(num_tasks, num_tasks) / (ranks * scale) ** 2
    losses_K = told_K[0] / ranks if observed.losses_K is not None else None
    # Counts of the global batch come out W times too large, and positive all the same.
    active_K = told_K[-1] > 0 if observed.counts_K is not None else None
    return Statistics(gramian_KK, losses_K, active_K, rest_n)


def filler(scale: LossScale) -> float:
    """Return what to merge a non-finite gradient to.

    Zero, which a fused table can take. Under a loss scale there is none, and the scaler has to see
    that its scale is too large: infinity.
    """
    return 0.0 if not isinstance(scale, Tensor) and scale == 1.0 else torch.inf


def weigh_rows(rows_K: Sequence[Row], weights_K: Tensor, ok: Tensor, scale: LossScale) -> Row:
    """Return the weighted sum of the rows, part by part; see `filler` where not `ok`."""
    filled = filler(scale)
    parts = zip(*rows_K, strict=True)
    return tuple(gramian.weighted_sum(grads_K, weights_K, ok, filled) for grads_K in parts)
