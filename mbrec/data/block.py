"""Rows in columns, between the files and the batches.

Shapes: n rows, F one-hot features, N numerical features, L labels, O columns of an oracle.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass
class Block:
    """Rows in columns, ready to be cut into batches.

    Attributes:
        ids_Fn: int64, one-hot features in config order.
        bags: values and offsets (n + 1) of each multi-hot feature, in config order.
        dense_nN: float32.
        labels_nL: float32, in the order asked for.
        weights_n: float32.
        oracle_nO: float64.
        rows_n: int64, position in the data set.
    """

    ids_Fn: np.ndarray
    bags: list[tuple[np.ndarray, np.ndarray]]
    dense_nN: np.ndarray
    labels_nL: np.ndarray
    weights_n: np.ndarray
    oracle_nO: np.ndarray
    rows_n: np.ndarray

    def __len__(self) -> int:
        return len(self.rows_n)

    def take(self, order: np.ndarray) -> "Block":
        """Return the rows at these positions."""
        return Block(
            np.take(self.ids_Fn, order, axis=1),
            [_take_bag(values, offsets, order) for values, offsets in self.bags],
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
            [(values, offsets[start : stop + 1]) for values, offsets in self.bags],
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
            [_concatenate_bags(bags) for bags in zip(*(b.bags for b in blocks), strict=True)],
            np.concatenate([block.dense_nN for block in blocks]),
            np.concatenate([block.labels_nL for block in blocks]),
            np.concatenate([block.weights_n for block in blocks]),
            np.concatenate([block.oracle_nO for block in blocks]),
            np.concatenate([block.rows_n for block in blocks]),
        )


def _take_bag(
    values: np.ndarray, offsets: np.ndarray, order: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    starts = np.take(offsets, order)
    lengths = np.take(offsets, order + 1) - starts
    ends = np.concatenate([[0], np.cumsum(lengths)])
    # Position within its bag, plus where that bag starts in the old values.
    within = np.arange(ends[-1]) - np.repeat(ends[:-1], lengths)
    return np.take(values, within + np.repeat(starts, lengths)), ends


def _concatenate_bags(
    bags: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
    values = np.concatenate([values[offsets[0] : offsets[-1]] for values, offsets in bags])
    lengths = np.concatenate([np.diff(offsets) for _, offsets in bags])
    return values, np.concatenate([[0], np.cumsum(lengths)])
