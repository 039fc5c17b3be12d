"""Random numbers that are the same on every machine, in any order and with any number of processes.

Only `random()` of numpy's generators promises a stable sequence, so every distribution is derived
from uniform numbers here.
"""

from dataclasses import dataclass

import numpy as np

from mbrec.config.synthetic import Array

_CHUNK_ROWS = 1 << 20  # rows whose float64 intermediate values are held at a time


@dataclass(frozen=True)
class Popularity:
    """Ids with the probabilities (rank + shift) ** -1.05, in a random order.

    Attributes:
        cumulative: probability of the first ranks, (size,) float64.
        ids: id of each rank, (size,) int64.
    """

    cumulative: Array
    ids: Array

    @classmethod
    def make(cls, stream: np.random.Generator, size: int, shift: float) -> "Popularity":
        """Draw which id has which rank."""
        cumulative = np.cumsum((np.arange(1, size + 1) + shift) ** -1.05)
        ids = np.argsort(stream.random(size), kind="stable")
        return cls(cumulative / cumulative[-1], ids)

    def draw(self, uniform: Array) -> Array:
        """Return an id for each number in [0, 1)."""
        return self.ids[np.searchsorted(self.cumulative, uniform, side="right")]


def stream(seed: int, *key: int) -> np.random.Generator:
    """Return the stream of uniform numbers that belongs to a key, whatever else was drawn."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)))


def normal(uniform: Array) -> Array:
    """Return as many standard normal columns as uniform ones, an even number: Box-Muller."""
    first, second = np.split(uniform, 2, axis=1)
    radius, angle = np.sqrt(-2 * np.log(1 - first)), 2 * np.pi * second
    return np.hstack([radius * np.cos(angle), radius * np.sin(angle)])


def effects(source: np.random.Generator, rows: int, columns: int) -> Array:
    """Draw a quantised standard normal table, (rows, columns) float32."""
    table = np.empty((rows, columns), dtype=np.float32)
    for start in range(0, rows, _CHUNK_ROWS):
        part = table[start : start + _CHUNK_ROWS]
        uniform = source.random((len(part), columns + columns % 2))
        part[:] = quantised(normal(uniform)[:, :columns])
    return table


def recoloured(table: Array, matrix: Array) -> Array:
    """Return the quantised product of a table of effects and a matrix, float32."""
    result = np.empty((len(table), matrix.shape[1]), dtype=np.float32)
    for start in range(0, len(table), _CHUNK_ROWS):
        part = slice(start, start + _CHUNK_ROWS)
        result[part] = quantised(table[part] @ matrix)
    return result


def quantised(values: Array) -> Array:
    """Round away the last bits, in which platforms' mathematical libraries differ; float32."""
    return np.round(values, 6).astype(np.float32)


def sigmoid(logits: Array) -> Array:
    """Return the probabilities of logits."""
    return 1 / (1 + np.exp(-logits))


def intercept(logits: Array, weight: Array, rate: float) -> float:
    """Return the constant, to 6 digits, that gives logits a weighted mean probability."""
    low, high = -40.0, 40.0
    while high - low > 1e-8:
        middle = (low + high) / 2
        below = np.average(sigmoid(logits + middle), weights=weight) < rate
        low, high = (middle, high) if below else (low, middle)
    return round((low + high) / 2, 6)
