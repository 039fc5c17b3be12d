"""Losses of small models, healthy and exploding, for the explosion guard: numpy, one process.

Shapes: B batch, D inputs, E embedding, H hidden.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mbrec.training.explosion_guard import StepLosses

D, E, H, IDS = 6, 4, 16, 50
Batch = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class World:
    """Rows whose labels are drawn by a logistic model of their inputs and their id.

    Attributes:
        rate: of the positives, about; 0 and 1 make all labels the same.
        strength: standard deviation of the logits.
        batch: rows per step.
        constant: all rows have the same inputs.
        scale: multiple of the inputs that the model gets; those that make the labels stay.
    """

    rate: float
    strength: float = 1.0
    batch: int = 64
    constant: bool = False
    scale: float = 1.0

    @property
    def entropy(self) -> float:
        """Loss per row of the best constant."""
        return -sum(p * np.log(p) for p in (self.rate, 1 - self.rate) if p > 0)

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Yield inputs (B, D), ids (B,) and labels (B,) of one step after the other."""
        along, effects = rng.normal(size=D) / D**0.5, rng.normal(size=IDS)
        sure = self.rate in (0.0, 1.0)
        middle = 0.0 if sure else np.log(self.rate / (1 - self.rate))
        while True:
            x_BD, ids_B = rng.normal(size=(self.batch, D)), rng.integers(IDS, size=self.batch)
            if self.constant:
                x_BD[:], ids_B[:] = 0.5, 0
            varied_B = self.strength * (x_BD @ along + effects[ids_B]) / 2**0.5
            logits_B = middle + (0.0 if self.constant else varied_B)
            p_B = np.full(self.batch, self.rate) if sure else 1 / (1 + np.exp(-logits_B))
            yield self.scale * x_BD, ids_B, (rng.random(self.batch) < p_B).astype(float)


class Model:
    """A table, crossed with the inputs and below a hidden layer; Adam and row-wise Adagrad.

    Attributes:
        lr: of Adam, for all but the table.
        table_lr: of Adagrad, for the table.
        dense: parameters that Adam trains.
    """

    def __init__(self, rng: np.random.Generator, *, lr: float, table_lr: float) -> None:
        self.lr, self.table_lr = lr, table_lr
        self._table = rng.uniform(-1, 1, (IDS, E)) / IDS**0.5
        self._squares = np.zeros(IDS)
        width = D + E
        sizes = [(width, H), (H,), (H,), (1,)]
        self.dense = [rng.uniform(-1, 1, size) / width**0.5 for size in sizes]
        self._moments = [(np.zeros(size), np.zeros(size)) for size in sizes]
        self._steps = 0

    def step(self, batch: Batch) -> float:
        """Train on a batch; return its summed loss before that."""
        x_BD, ids_B, y_B = batch
        w_IH, b_H, v_H, c_1 = self.dense
        table_BE = self._table[ids_B]
        in_BI = np.concatenate([x_BD, table_BE], 1)
        hidden_BH = np.maximum(in_BI @ w_IH + b_H, 0)
        logits_B = hidden_BH @ v_H + c_1 + (table_BE * x_BD[:, :E]).sum(1)
        loss = float((np.logaddexp(0, logits_B) - y_B * logits_B).sum())
        grad_B = (1 / (1 + np.exp(-np.clip(logits_B, -500, 500))) - y_B) / len(y_B)
        back_BH = np.outer(grad_B, v_H) * (hidden_BH > 0)
        grads = [in_BI.T @ back_BH, back_BH.sum(0), hidden_BH.T @ grad_B, grad_B.sum(keepdims=True)]
        rows = np.zeros_like(self._table)
        np.add.at(rows, ids_B, back_BH @ w_IH.T[:, D:] + grad_B[:, None] * x_BD[:, :E])
        self._update(grads, rows)
        return loss

    def _update(self, grads: list[np.ndarray], rows: np.ndarray) -> None:
        self._steps += 1
        rate = self.lr / (1 - 0.9**self._steps) * (1 - 0.999**self._steps) ** 0.5
        for value, grad, (first, second) in zip(self.dense, grads, self._moments, strict=True):
            first += 0.1 * (grad - first)
            second += 0.001 * (grad**2 - second)
            value -= rate * first / (second**0.5 + 1e-8)
        self._squares += (rows**2).mean(1)
        self._table -= self.table_lr * rows / (self._squares**0.5 + 1e-8)[:, None]


def losses(
    world: World,
    seed: int,
    *,
    lr: float = 5e-3,
    table_lr: float = 0.04,
    change: Callable[[int, Model], None] | None = None,
) -> Iterator[StepLosses]:
    """Yield the losses of a model in training, until one is not finite.

    Args:
        world: of the rows.
        seed: of the rows and the parameters.
        lr, table_lr: learning rates.
        change: called before each step with its number and the model.
    """
    rng = np.random.default_rng(seed)
    model = Model(rng, lr=lr, table_lr=table_lr)
    for step, batch in enumerate(world.batches(rng), 1):
        if change is not None:
            change(step, model)
        with np.errstate(over="ignore", invalid="ignore"):
            loss = model.step(batch)
        if not np.isfinite(loss):
            return
        yield StepLosses(step, [loss], [float(world.batch)], [float(batch[2].sum())])
