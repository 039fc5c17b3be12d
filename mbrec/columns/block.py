"""Rows in columns, between the files and the batches.

Shapes: n rows, F one-hot features, N numerical features, L labels, O columns of an oracle.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np


@dataclass
class Bag:
    """The ids of a multi-hot feature: those of row i are values[offsets[i] : offsets[i + 1]].

    Attributes:
        values: int64.
        offsets: int64, (n + 1,).
        weights: float32, one for each value, or None where each counts 1.
        dropped: int64, how many ids were cut off each row's list, or None where none ever are.
    """

    values: np.ndarray
    offsets: np.ndarray
    weights: np.ndarray | None = None
    dropped: np.ndarray | None = None

    @staticmethod
    def allocate(size: int, rows: int, *, weighted: bool) -> "Bag":
        """Return room for a number of values in a number of rows."""
        weights = np.empty(size, np.float32) if weighted else None
        return Bag(np.empty(size, np.int64), np.empty(rows + 1, np.int64), weights)

    def room_for(self, bags: "Sequence[Bag]") -> "Bag":
        """Return this bag's memory, or more of it, with room for the rows of others."""
        size = sum(int(bag.offsets[-1] - bag.offsets[0]) for bag in bags)
        rows = sum(len(bag.offsets) - 1 for bag in bags)
        weighted = bags[0].weights is not None
        fits = len(self.values) >= size and len(self.offsets) > rows
        if fits and weighted == (self.weights is not None):
            return self
        return Bag.allocate(size + size // 4, rows, weighted=weighted)

    def take(self, order: np.ndarray) -> "Bag":
        """Return the rows at these positions."""
        starts = np.take(self.offsets, order)
        lengths = np.take(self.offsets, order + 1) - starts
        ends = np.concatenate([[0], np.cumsum(lengths)])
        # Position within its bag, plus where that bag starts in the old values.
        within = np.arange(ends[-1]) - np.repeat(ends[:-1], lengths)
        chosen = within + np.repeat(starts, lengths)
        weights = None if self.weights is None else np.take(self.weights, chosen)
        dropped = None if self.dropped is None else np.take(self.dropped, order)
        return Bag(np.take(self.values, chosen), ends, weights, dropped)

    def slice(self, start: int, stop: int) -> "Bag":
        """Return rows [start, stop) as views."""
        dropped = None if self.dropped is None else self.dropped[start:stop]
        return Bag(self.values, self.offsets[start : stop + 1], self.weights, dropped)

    def own(self, values: np.ndarray) -> np.ndarray:
        """Return the part of values or weights that belongs to these rows."""
        return values[self.offsets[0] : self.offsets[-1]]


@dataclass
class Block:
    """Rows in columns, ready to be cut into batches.

    Attributes:
        ids_Fn: int64, one-hot features in config order.
        bags: of each multi-hot feature, in config order.
        dense_nN: float32.
        labels_nL: float32, in the order asked for.
        weights_n: float32.
        oracle_nO: float64.
        rows_n: int64, position in the data set.
    """

    ids_Fn: np.ndarray
    bags: list[Bag]
    dense_nN: np.ndarray
    labels_nL: np.ndarray
    weights_n: np.ndarray
    oracle_nO: np.ndarray
    rows_n: np.ndarray

    @staticmethod
    def allocate(n: int, like: "Block") -> "Block":
        """Return n rows to be filled, as wide as another block, without bags."""
        return Block(
            np.empty((len(like.ids_Fn), n), np.int64),
            [],
            np.empty((n, like.dense_nN.shape[1]), np.float32),
            np.empty((n, like.labels_nL.shape[1]), np.float32),
            np.empty(n, np.float32),
            np.empty((n, like.oracle_nO.shape[1]), np.float64),
            np.empty(n, np.int64),
        )

    def __len__(self) -> int:
        return len(self.rows_n)

    def take(self, order: np.ndarray) -> "Block":
        """Return the rows at these positions."""
        return Block(
            np.take(self.ids_Fn, order, axis=1),
            [bag.take(order) for bag in self.bags],
            np.take(self.dense_nN, order, axis=0),
            np.take(self.labels_nL, order, axis=0),
            np.take(self.weights_n, order),
            np.take(self.oracle_nO, order, axis=0),
            np.take(self.rows_n, order),
        )

    def slice(self, start: int, stop: int) -> "Block":
        """Return rows [start, stop) as views."""
        return Block(
            self.ids_Fn[:, start:stop],
            [bag.slice(start, stop) for bag in self.bags],
            self.dense_nN[start:stop],
            self.labels_nL[start:stop],
            self.weights_n[start:stop],
            self.oracle_nO[start:stop],
            self.rows_n[start:stop],
        )

    @staticmethod
    def concatenate(blocks: "Sequence[Block]") -> "Block":
        """Return the rows of all blocks, in order."""
        if len(blocks) == 1:
            return blocks[0]
        return Block(
            np.concatenate([block.ids_Fn for block in blocks], axis=1),
            [concatenate_bags(bags) for bags in zip(*(b.bags for b in blocks), strict=True)],
            np.concatenate([block.dense_nN for block in blocks]),
            np.concatenate([block.labels_nL for block in blocks]),
            np.concatenate([block.weights_n for block in blocks]),
            np.concatenate([block.oracle_nO for block in blocks]),
            np.concatenate([block.rows_n for block in blocks]),
        )


def concatenate_bags(bags: Sequence[Bag], room: Bag | None = None) -> Bag:
    """Return the bags of all blocks for one feature, in order.

    Args:
        bags: of one feature.
        room: memory for the result, enough of it; default: new memory.
    """
    room = room or Bag.allocate(0, 0, weighted=False).room_for(bags)
    sizes = [int(bag.offsets[-1] - bag.offsets[0]) for bag in bags]
    rows, total = sum(len(bag.offsets) - 1 for bag in bags), sum(sizes)
    values, offsets, weights = room.values[:total], room.offsets[: rows + 1], None
    np.concatenate([bag.own(bag.values) for bag in bags], out=values)
    if room.weights is not None:
        weights = room.weights[:total]
        np.concatenate([bag.own(w) for bag in bags if (w := bag.weights) is not None], out=weights)
    offsets[0], end = 0, 0
    for bag, before in zip(bags, accumulate(sizes, initial=0), strict=False):
        begin, end = end, end + len(bag.offsets) - 1
        np.add(bag.offsets[1:], before - bag.offsets[0], out=offsets[begin + 1 : end + 1])
    dropped = [bag.dropped for bag in bags if bag.dropped is not None]
    return Bag(values, offsets, weights, np.concatenate(dropped) if dropped else None)
