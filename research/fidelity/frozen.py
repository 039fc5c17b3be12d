"""The surrogate at many batch sizes and the same parameters: what is noise, and what stays.

Shapes: K tasks, P parameters of a module.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from mbrec.distributed.lockstep import Lockstep
from mbrec.metrics.outputs import Outputs
from mbrec.training.optimizers import Warmup
from mbrec.training.trainer import Trainer
from research.fidelity.agreement import condition, least_norm_weights, norm, surrogate_ratio
from research.fidelity.figures import Frozen
from research.fidelity.gradients import BOTTOM, GradientWatch

TARGETS = ("interaction", BOTTOM)
# Of a batch: of the representation, and by target.
Gramians = tuple[Tensor, dict[str, Tensor]]


@dataclass(frozen=True)
class Merged:
    """A batch, or two of them taken together.

    Attributes:
        representation_KK: inner products of the representation's gradients. Those of two batches
            are of different rows, so their inner products add.
        grads_KP: gradients of the interaction module, and of the rest of the bottom after it.
        own_size: parameters of the interaction module.
    """

    representation_KK: Tensor
    grads_KP: Tensor
    own_size: int

    def gramian(self, target: str) -> Tensor:
        """Return the inner products of the gradients of a target's parameters."""
        grads_KP = self.grads_KP if target == BOTTOM else self.grads_KP[:, : self.own_size]
        return grads_KP @ grads_KP.T

    def with_other(self, other: "Merged") -> "Merged":
        """Return the batch of both: its gradient is the mean, that of each row half as large."""
        return Merged(
            (self.representation_KK + other.representation_KK) / 4,
            (self.grads_KP + other.grads_KP) / 2,
            self.own_size,
        )


class Merging:
    """Takes batches one by one, and merges two of a size as soon as there are two.

    Attributes:
        levels: one entry per size, each double the one before.
        last: the largest batch so far.
    """

    def __init__(self) -> None:
        self.levels: list[list[Gramians]] = []
        self.last: Merged | None = None
        self._waiting: list[Merged | None] = []

    def add(self, batch: Merged) -> None:
        """Take a batch."""
        depth = 0
        while True:
            if depth == len(self.levels):
                self.levels.append([])
                self._waiting.append(None)
                self.last = batch
            by_target = {target: batch.gramian(target) for target in TARGETS}
            self.levels[depth].append((batch.representation_KK, by_target))
            other, self._waiting[depth] = self._waiting[depth], None
            if other is None:
                self._waiting[depth] = batch
                return
            batch, depth = other.with_other(batch), depth + 1


def worth(batches: Sequence[Gramians], rows: int, target: str, population_KK: Tensor) -> Frozen:
    """Return the figures of batches of a size, their weights put to the population's gradients."""
    gramians = [(representation_KK, by_target[target]) for representation_KK, by_target in batches]
    least = norm(least_norm_weights(population_KK), population_KK)
    weights_K, own_K = (list(map(least_norm_weights, side)) for side in zip(*gramians, strict=True))
    mean_K = torch.stack([gramian_KK.diagonal() for _, gramian_KK in gramians]).mean(0)
    # The batches make up the population, so their mean square is its own and the variance.
    variance_K = (mean_K - population_KK.diagonal()).clamp_min(0.0)
    bounds = [bound for pair in gramians if (bound := condition(*pair)) is not None]
    own = zip(weights_K, gramians, own_K, strict=True)
    ratios = [surrogate_ratio(w_K, gramian_KK, best_K) for w_K, (_, gramian_KK), best_K in own]

    def on_population(weights: Sequence[Tensor]) -> float:
        return statistics.fmean(norm(w_K, population_KK) / least for w_K in weights)

    return Frozen(
        rows,
        target,
        ratio=statistics.median(ratios),
        bound=statistics.median(bounds) if bounds else None,
        residual=float((variance_K / mean_K).sqrt().mean()),
        representation=on_population(weights_K),
        own=on_population(own_K),
        uniform=on_population([torch.full_like(mean_K, 1 / len(mean_K))]),
    )


def frozen(trainer: Trainer, gradients: GradientWatch, rows: int) -> list[Frozen]:
    """Return the worth of the surrogate at all batch sizes up to `rows`, on one set of parameters.

    The learning rates are 0 from then on.

    Args:
        trainer: trained.
        gradients: that watch its model.
        rows: a power of two times the trainer's batch size; the reader has as many.
    """
    reader, merging = trainer.loader.reader, Merging()
    batch_size = reader.global_batch_size
    limit = rows // batch_size
    assert rows % batch_size == 0 and limit.bit_count() == 1, (rows, batch_size)
    for group in cast(list[dict[str, Any]], list(trainer.optimizer.param_groups)):
        group["lr"] = 0.0
    trainer.warmup = Warmup(trainer.optimizer, 0)

    def look(_: Outputs) -> None:
        found = gradients.take()
        grads_KP = torch.cat(list(found.grads_KP.values()), 1)
        own_size = found.grads_KP["interaction"].shape[1]
        merging.add(Merged(found.representation_KK, grads_KP, own_size))

    reader.set_epoch(reader.epoch + 1)
    batches = iter(trainer.loader)
    try:
        trainer.train(Lockstep(batches, reader.empty_batch, limit=limit), look)
    finally:
        batches.close()
    assert merging.last is not None
    assert len(merging.levels) == limit.bit_length(), "an epoch has enough full batches"
    return [
        worth(batches, batch_size << depth, target, merging.last.gramian(target))
        for target in TARGETS
        for depth, batches in enumerate(merging.levels)
    ]
