"""No value that is not finite reaches a table or a dense parameter, on any rank.

Three places check, none of which adds a collective:

* the hook, where the K gradients arrive: its collective makes the verdict the same on all ranks,
  and it merges to zero (`BalanceHook.ok`);
* `TableGuard`, below it, where the gradient leaves for the tables, which update themselves inside
  backward: zero times an infinite activation is NaN, so it makes the zeros there;
* `FiniteGuard`, before the dense optimizer steps: gradients are summed over the ranks by then, and
  one that is not finite on one rank is so on all.

Weights of ids multiply gradients inside the tables, behind all of these; the reader refuses those
that are not finite.

Shapes: B batch, D width of all embeddings.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.optim.keyed import CombinedOptimizer, OptimizerWrapper

from mbrec.balance import BalanceHook
from mbrec.distributed.agreement import gather
from mbrec.model.ranker import LARGEST_GRADIENT, Heads, TableGuard
from mbrec.training.explosion_guard import StepLosses

log = logging.getLogger(__name__)

# How findings begin that were in the batch already.
_INPUTS = ("numerical feature", "labels of task", "sample weights")


class NotFiniteInputs(FloatingPointError):
    """A batch held values that are not finite: the data are at fault, not the training."""


class FiniteGuard(OptimizerWrapper):
    """An optimizer that checks before it steps; give it to the pipeline in place of the one inside.

    The check is one read from the device per step. With finite values it steps; else it leaves
    every parameter, moment and balancer as it is, and says so on all ranks at the same step.

    Args:
        parameters: of the model; those with a gradient are checked.
        heads: with the hook.
        tables: the guard below the hook.
        max_skipped: batches that may be left out.
        inputs: names of the numerical inputs, in order.
        features: categorical feature -> width of its embedding, in order.

    Attributes:
        step_number: of the step under way; the trainer sets it.
        skipped: batches left out so far.
        last_skipped: whether the last batch was.
        problem: why the job cannot go on, or None; on every rank at the same step.
            `NotFiniteInputs` if the batch already had such values.
        losses: of the last step; None before the first, and where the batch was left out.
        of_all_ranks: whether they are of all ranks, and not of this one alone.

    Raises:
        ValueError: if batches may be left out, and that cannot be exact.
    """

    def __init__(
        self,
        optimizer: CombinedOptimizer,
        parameters: Iterable[nn.Parameter],
        heads: Heads,
        tables: TableGuard,
        *,
        max_skipped: int,
        inputs: Sequence[str],
        features: Mapping[str, int],
    ) -> None:
        super().__init__(optimizer)
        assert heads.hook is not None
        self._hook: BalanceHook = heads.hook
        if max_skipped and not self._hook.decides_together:
            raise ValueError(
                "expected guard.max_skipped=0 with hook.lag=1, or without the statistics of the "
                "hook: the tables of other ranks have moved when a batch turns out not to be finite"
            )
        self._heads, self._tables = heads, tables
        tables.hook_ok = lambda: self._hook.ok
        self._max_skipped = max_skipped
        self._inputs, self._features = list(inputs), dict(features)
        self._parameters = list(parameters)
        self.step_number = 0
        self.skipped = 0
        self.last_skipped = False
        self.problem: FloatingPointError | None = None
        self.losses: StepLosses | None = None
        self.of_all_ranks = True

    def step(self, closure: Any = None) -> None:
        """Step, if everything is finite.

        Raises:
            FloatingPointError: on a rank that alone knows of a value that is not finite.
        """
        hook_ok, tables_ok, dense_norm, *sums = self._look()
        dense_ok = dense_norm < LARGEST_GRADIENT
        self.last_skipped = not (hook_ok and tables_ok and dense_ok)
        self.losses = None
        if not self.last_skipped:
            size = len(sums) // 3
            parts = sums[:size], sums[size : 2 * size], sums[2 * size :]
            self.losses = StepLosses(self.step_number, *parts)
            self._optimizer.step(closure=closure)
        elif dense_ok and (hook_ok or not self._hook.decides_together):
            # Overflow below the hook, where only this rank saw it: it ends, and so do the others.
            raise FloatingPointError(self._describe({dist.get_rank(): self._findings()}))
        else:
            self._leave_out(tables_moved=bool(hook_ok))

    def _look(self) -> list[float]:
        grads = [p.grad for p in self._parameters if p.grad is not None]
        dense_norm = nn.utils.get_total_norm(grads)
        verdicts_3 = torch.stack([p.double() for p in (self._hook.ok, self._tables.ok, dense_norm)])
        assert self._heads.seen is not None
        batch, losses_K = self._heads.seen
        sums_K = self._heads.log_losses(self._all_losses(losses_K), batch)
        parts = [verdicts_3, sums_K, batch.counts_K, batch.positives_K]
        return torch.cat([part.double() for part in parts]).tolist()

    def _all_losses(self, own_K: Tensor) -> Tensor:
        """Return losses that add up to those of all ranks: of each, or else of this one."""
        ranks, mean_K = self._heads.world_size, self._hook.losses
        # With lag=1 the hook's are those of the step before.
        together = self._hook.decides_together and mean_K is not None
        self.of_all_ranks = together or ranks == 1
        return mean_K * ranks if together and mean_K is not None else own_K

    def _leave_out(self, *, tables_moved: bool) -> None:
        """Continue without the batch, or say why not. Collective: every rank must call it."""
        found = gather(self._findings())
        at_fault = any(t.startswith(_INPUTS) for part in found for t in part)
        text = self._describe(dict(enumerate(found)))
        # With the hook's verdict no table has moved, on any rank.
        if not tables_moved and self.skipped < self._max_skipped:
            self.skipped += 1
            if dist.get_rank() == 0:
                log.warning("%s Batch left out, %d so far.", text, self.skipped)
            return
        if self._max_skipped:
            reason = "tables have moved" if tables_moved else f"{self.skipped} were left out"
            text += f" No batch can be left out (guard.max_skipped={self._max_skipped}): {reason}."
        self.problem = NotFiniteInputs(text) if at_fault else FloatingPointError(text)

    def _describe(self, found: Mapping[int, Sequence[str]]) -> str:
        """Return the message about the findings of each rank."""
        ranks: dict[str, list[str]] = {}
        for rank, findings in found.items():
            for text in findings:
                ranks.setdefault(text, []).append(str(rank))
        parts = [f"{text} on rank {', '.join(where)}" for text, where in ranks.items()]
        below = f"a gradient below the representation (seen on rank {dist.get_rank()})"
        what = "; ".join(parts) or below
        return (
            f"step {self.step_number}: expected finite values, got others: {what}. Nothing of it "
            "has reached a parameter. Look for outliers among the inputs, lower the learning "
            "rates, or leave such batches out with guard.max_skipped=N."
        )

    def _findings(self) -> list[str]:
        """Return what is not finite on this rank, from the inputs upwards."""
        assert self._heads.seen is not None
        batch, losses_K = self._heads.seen
        tasks, features = list(self._heads.mlps), self._tables.features_BD
        values: list[tuple[str, Tensor | None]] = []
        for name, value_B in zip(self._inputs, batch.dense_BN.unbind(1), strict=True):
            values.append((f"{_INPUTS[0]} '{name}'", value_B))
        for task, label_B in zip(tasks, batch.labels_BK.unbind(1), strict=True):
            values.append((f"{_INPUTS[1]} '{task}'", label_B))
        values.append((_INPUTS[2], batch.weights_B))
        if features is not None:
            parts = features.split(list(self._features.values()), 1)
            for name, part in zip(self._features, parts, strict=True):
                values.append((f"embeddings of feature '{name}'", part))
        found = [text for text, value in values if value is not None and not _is_finite(value)]
        losses = dict(zip(tasks, losses_K.unbind(), strict=True))
        bad = [task for task, loss in losses.items() if not _is_finite(loss)]
        found += [f"loss {losses[task].item()} of task '{task}'" for task in bad]
        if (local_KK := self._hook.local_gramian) is not None:
            for task, square in zip(tasks, local_KK.diagonal(), strict=True):
                if not _is_finite(square) and task not in bad:
                    found.append(f"gradient of task '{task}'")
        return found


def _is_finite(values: Tensor) -> bool:
    return bool(torch.isfinite(values).all())
