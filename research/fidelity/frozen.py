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
from research.fidelity.agreement import least_norm_weights, norm, stretch, surrogate_ratio
from research.fidelity.figures import BOTTOM, Frozen
from research.fidelity.gradients import GradientWatch

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

    def of(self, target: str) -> Tensor:
        """Return the gradients of a target's parameters."""
        return self.grads_KP if target == BOTTOM else self.grads_KP[:, : self.own_size]

    def with_other(self, other: "Merged") -> "Merged":
        """Return the batch of both: its gradient is the mean, that of each row half as large."""
        return Merged(
            (self.representation_KK + other.representation_KK) / 4,
            (self.grads_KP + other.grads_KP) / 2,
            self.own_size,
        )


@dataclass
class Level:
    """What is kept of the batches of one size, for a target."""

    weights_K: list[Tensor] = field(default_factory=list)
    own_K: list[Tensor] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    bounds: list[float] = field(default_factory=list)
    squares_K: list[Tensor] = field(default_factory=list)

    def keep(self, weights_K: Tensor, representation_KK: Tensor, gramian_KK: Tensor) -> None:
        """Keep what a batch says; `weights_K` are those of the representation."""
        self.weights_K.append(weights_K)
        self.own_K.append(least_norm_weights(gramian_KK))
        self.ratios.append(surrogate_ratio(weights_K, gramian_KK, self.own_K[-1]))
        bounds = stretch(representation_KK, gramian_KK)
        if bounds is not None and bounds[0] > 0:
            self.bounds.append(bounds[1] / bounds[0])
        self.squares_K.append(gramian_KK.diagonal())

    def worth(self, rows: int, target: str, population_KK: Tensor) -> Frozen:
        """Return the figures, with the weights of each batch put to the population's gradients."""
        least = norm(least_norm_weights(population_KK), population_KK)
        mean_K = torch.stack(self.squares_K).mean(0)
        # The batches make up the population, so their mean square is its own and the variance.
        variance_K = (mean_K - population_KK.diagonal()).clamp_min(0.0)
        uniform_K = torch.full_like(mean_K, 1 / len(mean_K))

        def on_population(weights: Sequence[Tensor]) -> float:
            return statistics.fmean(norm(weights_K, population_KK) / least for weights_K in weights)

        return Frozen(
            rows,
            target,
            ratio=statistics.median(self.ratios),
            bound=statistics.median(self.bounds) if self.bounds else None,
            residual=float((variance_K / mean_K).sqrt().mean()),
            representation=on_population(self.weights_K),
            own=on_population(self.own_K),
            uniform=on_population([uniform_K]),
        )


class Merging:
    """Takes batches one by one, and merges two of a size as soon as there are two.

    Attributes:
        levels: target -> one entry a size, each double the one before.
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
            self._keep(depth, batch)
            if depth == len(self._waiting):
                self._waiting.append(None)
                self.last = batch
            other, self._waiting[depth] = self._waiting[depth], None
            if other is None:
                self._waiting[depth] = batch
                return
            batch, depth = other.with_other(batch), depth + 1

    def _keep(self, depth: int, batch: Merged) -> None:
        weights_K = least_norm_weights(batch.representation_KK)
        for target, levels in self.levels.items():
            if depth == len(levels):
                levels.append(Level())
            grads_KP = batch.of(target)
            levels[depth].keep(weights_K, batch.representation_KK, grads_KP @ grads_KP.T)


def frozen(trainer: Trainer, gradients: GradientWatch, rows: int) -> list[Frozen]:
    """Return what the surrogate is worth at all batch sizes up to `rows`, on one set of parameters.

    The learning rates are 0 from then on.

    Args:
        trainer: trained.
        gradients: that watch its model.
        rows: a power of two times the trainer's batch size; the reader has as many.
    """
    reader, merging = trainer.loader.reader, Merging()
    batch_size = reader.global_batch_size
    assert rows % batch_size == 0 and (rows // batch_size).bit_count() == 1, (rows, batch_size)
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
        limit = rows // batch_size
        trainer.train(Lockstep(batches, reader.empty_batch, limit=limit), look)
    finally:
        batches.close()
    assert merging.last is not None
    assert len(merging.levels[BOTTOM]) == limit.bit_length(), "an epoch has enough full batches"
    return [
        level.worth(batch_size << depth, target, _gramian(merging.last, target))
        for target, levels in merging.levels.items()
        for depth, level in enumerate(levels)
    ]


def _gramian(batch: Merged, target: str) -> Tensor:
    grads_KP = batch.of(target)
    return grads_KP @ grads_KP.T
