"""Random numbers that are the same on every machine, in any order and with any number of processes.

Only `random()` of numpy's generators promises a stable sequence, so every distribution is derived
from uniform numbers here.
"""

from dataclasses import dataclass

import numpy as np

from mbrec.config.synthetic import Array

# Rows whose float64 intermediate values are held at a time.
_ROWS_AT_A_TIME = 1 << 20


@dataclass(frozen=True)
class Popularity:
    """Ids with the probabilities (rank + shift) ** -1.05, in a random order.

    Attributes:
        cumulative: Probability of the first ranks, (size,) float64.
        ids: Id of each rank, (size,) int64.
    """

    cumulative: Array
    ids: Array

    @classmethod
    def make(cls, stream: np.random.Generator, size: int, shift: float) -> "Popularity":
        """Draws which id has which rank."""
        cumulative = np.cumsum((np.arange(1, size + 1) + shift) ** -1.05)
        ids = np.argsort(stream.random(size), kind="stable")
        return cls(cumulative / cumulative[-1], ids)

    def draw(self, uniform: Array) -> Array:
        """Returns an id for each number in [0, 1)."""
        return self.ids[np.searchsorted(self.cumulative, uniform, side="right")]


def stream(seed: int, *key: int) -> np.random.Generator:
    """Returns the stream of uniform numbers that belongs to a key, whatever else was drawn."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)))


def normal(uniform: Array) -> Array:
    """Box-Muller: as many standard normal columns as uniform ones, an even number."""
    first, second = np.split(uniform, 2, axis=1)
    radius, angle = np.sqrt(-2 * np.log(1 - first)), 2 * np.pi * second
    return np.hstack([radius * np.cos(angle), radius * np.sin(angle)])


def effects(source: np.random.Generator, rows: int, columns: int) -> Array:
    """Draws a quantised standard normal table, (rows, columns) float32."""
    table = np.empty((rows, columns), dtype=np.float32)
    for start in range(0, rows, _ROWS_AT_A_TIME):
        part = table[start : start + _ROWS_AT_A_TIME]
        uniform = source.random((len(part), columns + columns % 2))
        part[:] = quantised(normal(uniform)[:, :columns])
    return table


def recoloured(table: Array, matrix: Array) -> Array:
    """Returns the quantised product of a table of effects and a matrix, float32."""
    result = np.empty((len(table), matrix.shape[1]), dtype=np.float32)
    for start in range(0, len(table), _ROWS_AT_A_TIME):
        part = slice(start, start + _ROWS_AT_A_TIME)
        result[part] = quantised(table[part] @ matrix)
    return result


def quantised(values: Array) -> Array:
    """Hides the last bits, in which platforms' mathematical libraries differ."""
    return np.round(values, 6).astype(np.float32)


def sigmoid(logits: Array) -> Array:
    """Returns the probabilities of logits."""
    return 1 / (1 + np.exp(-logits))


def intercept(logits: Array, weight: Array, rate: float) -> float:
    """Returns what must be added to logits for a weighted mean probability, to 6 digits."""
    low, high = -40.0, 40.0
    while high - low > 1e-8:
        middle = (low + high) / 2
        below = np.average(sigmoid(logits + middle), weights=weight) < rate
        low, high = (middle, high) if below else (low, middle)
    return round((low + high) / 2, 6)
