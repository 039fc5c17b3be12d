"""The surrogate at many batch sizes and the same parameters: what is noise, and what stays.

Shapes: K tasks, P parameters of a module.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
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


@dataclass
class Level:
    """The batches of one size: the weights, the Gramian and the bound of each."""

    weights_K: list[Tensor] = field(default_factory=list)
    gramians_KK: list[Tensor] = field(default_factory=list)
    bounds: list[float | None] = field(default_factory=list)

    def keep(self, weights_K: Tensor, representation_KK: Tensor, gramian_KK: Tensor) -> None:
        """Add a batch; `weights_K` are those of the representation."""
        self.weights_K.append(weights_K)
        self.gramians_KK.append(gramian_KK)
        self.bounds.append(condition(representation_KK, gramian_KK))

    def worth(self, rows: int, target: str, population_KK: Tensor) -> Frozen:
        """Return the figures, with the weights of each batch put to the population's gradients."""
        least = norm(least_norm_weights(population_KK), population_KK)
        own_K = list(map(least_norm_weights, self.gramians_KK))
        mean_K = torch.stack([gramian_KK.diagonal() for gramian_KK in self.gramians_KK]).mean(0)
        # The batches make up the population, so their mean square is its own and the variance.
        variance_K = (mean_K - population_KK.diagonal()).clamp_min(0.0)
        bounds = [bound for bound in self.bounds if bound is not None]

        def on_population(weights: Sequence[Tensor]) -> float:
            return statistics.fmean(norm(weights_K, population_KK) / least for weights_K in weights)

        return Frozen(
            rows,
            target,
            ratio=statistics.median(map(surrogate_ratio, self.weights_K, self.gramians_KK, own_K)),
            bound=statistics.median(bounds) if bounds else None,
            residual=float((variance_K / mean_K).sqrt().mean()),
            representation=on_population(self.weights_K),
            own=on_population(own_K),
            uniform=on_population([torch.full_like(mean_K, 1 / len(mean_K))]),
        )


class Merging:
    """Takes batches one by one, and merges two of a size as soon as there are two.

    Attributes:
        levels: target -> one entry per size, each double the one before.
        last: the largest batch so far.
    """

    def __init__(self) -> None:
        self.levels: dict[str, list[Level]] = {target: [] for target in TARGETS}
        self.last: Merged | None = None
        self._waiting: list[Merged | None] = []

    def add(self, batch: Merged) -> None:
        """Take a batch."""
        depth = 0
        while True:
            if depth == len(self._waiting):
                self._waiting.append(None)
                self.last = batch
                for levels in self.levels.values():
                    levels.append(Level())
            weights_K = least_norm_weights(batch.representation_KK)
            for target, levels in self.levels.items():
                levels[depth].keep(weights_K, batch.representation_KK, batch.gramian(target))
            other, self._waiting[depth] = self._waiting[depth], None
            if other is None:
                self._waiting[depth] = batch
                return
            batch, depth = other.with_other(batch), depth + 1


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
    assert len(merging.levels[BOTTOM]) == limit.bit_length(), "an epoch has enough full batches"
    return [
        level.worth(batch_size << depth, target, merging.last.gramian(target))
        for target, levels in merging.levels.items()
        for depth, level in enumerate(levels)
    ]
