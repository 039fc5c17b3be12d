"""Encoded rows -> padded batches.

Shapes: B rows per rank and batch, K tasks, F categorical features, C counts of lost ids.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

import numpy as np
import pyarrow as pa
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from mbrec.columns.encode import EncodedRows, Encoder, Target
from mbrec.columns.ids import Bag
from mbrec.columns.schema import Columns
from mbrec.config.tasks import Task
from mbrec.reader.batch import Batch


class Assembler:
    """Makes batches of constant size.

    Args:
        columns: the schema.
        tasks: name -> task, in the order of the batch's columns.
        batch_size: B; fewer rows are padded with rows that count for nothing.
        oracle: read the true probabilities as well, where there are any.
        vocabularies: of the features that have one; by the name of the file.

    Attributes:
        encoder: reads what the batches need.

    Raises:
        ValueError: if a task needs a label that the data set does not have.
    """

    def __init__(
        self,
        columns: Columns,
        tasks: Mapping[str, Task],
        batch_size: int,
        *,
        oracle: bool = True,
        vocabularies: Mapping[str, pa.Array] | None = None,
    ) -> None:
        labels = [task.label for task in tasks.values()]
        labels += [task.given for task in tasks.values() if task.given is not None]
        if unknown := [name for name in dict.fromkeys(labels) if name not in columns.labels]:
            raise ValueError(
                f"expected labels of the data set ({', '.join(columns.labels)}), "
                f"got tasks that need {', '.join(unknown)}"
            )
        oracles = columns.oracle if oracle else {}
        targets = [Target(t.label, t.given, oracles.get(name)) for name, t in tasks.items()]
        self.encoder = Encoder(columns, targets, vocabularies)
        self.batch_size = batch_size
        features = columns.categorical
        self._keys = list(features)
        self._weighted = any(feature.weights for feature in features.values())
        self._bags = [f for f, feature in enumerate(features.values()) if feature.multi_hot]
        # The pieces that the ids of a batch consist of: a bag by its number, or rows of `ids_Fn`.
        self._pieces: list[int | slice] = []
        number = {True: 0, False: 0}
        for multi_hot, run in groupby(features.values(), lambda feature: feature.multi_hot):
            start = number[multi_hot]
            stop = number[multi_hot] = start + len(list(run))
            self._pieces += range(start, stop) if multi_hot else [slice(start, stop)]
        kinds = [feature.multi_hot for feature in features.values()]
        numbers = {n: kinds[:f].count(kinds[f]) for f, n in enumerate(features)}
        self._with_oov = [(numbers[name], features[name]) for name in columns.with_oov]
        self._cut = [numbers[name] for name in columns.cut]

    def batches(self, windows: Iterable[tuple[EncodedRows, np.ndarray]]) -> Iterator[Batch]:
        """Yield batches of the rows of all windows, in order; the last one may be padded.

        Args:
            windows: rows, valid until the next ones are taken, and the order in which they leave.
        """
        waiting: list[EncodedRows] = []
        missing = self.batch_size
        for rows, order in windows:
            bags = [_take_bag(bag, order) for bag in rows.bags]
            start = 0
            while start < len(order):
                stop = min(start + missing, len(order))
                # A batch at a time: the memory for that is small, and used again soon.
                waiting.append(_take(rows, bags, order, start, stop))
                missing -= stop - start
                start = stop
                if not missing:
                    yield self.batch(_joined(waiting))
                    waiting, missing = [], self.batch_size
        if waiting:
            yield self.batch(_joined(waiting))

    def batch(self, rows: EncodedRows) -> Batch:
        """Return the batch of at most B rows; it shares their memory where it can."""
        size = self.batch_size
        labels_BK, masks_BK = _padded(rows.labels_nK, size), _padded(rows.masks_nK, size)
        weights_B = _padded(rows.weights_n, size)
        weights = weights_B.astype(np.float64)
        return Batch(
            self._sparse(rows),
            torch.from_numpy(_padded(rows.dense_nN, size)),
            torch.from_numpy(labels_BK),
            torch.from_numpy(masks_BK),
            torch.from_numpy(weights_B),
            torch.from_numpy(masks_BK.astype(np.float64).T @ weights),
            # Labels are 0 where they are masked.
            torch.from_numpy(labels_BK.astype(np.float64).T @ weights),
            torch.from_numpy(_padded(rows.rows_n, size, -1)),
            None
            if rows.oracle_nK is None
            else torch.from_numpy(_padded(rows.oracle_nK, size, np.nan)),
            self._lost_2C(rows),
        )

    def _sparse(self, rows: EncodedRows) -> KeyedJaggedTensor:
        lengths_FB = np.zeros((len(self._keys), self.batch_size), np.int32)
        lengths_FB[:, : len(rows)] = 1
        for f, bag in zip(self._bags, rows.bags, strict=True):
            lengths_FB[f, : len(rows)] = bag.lengths
        values: list[np.ndarray] = []
        weights: list[np.ndarray] = []
        for piece in self._pieces:
            given = None
            if isinstance(piece, slice):
                values.append(rows.ids_Fn[piece].reshape(-1))
            else:
                values.append(rows.bags[piece].values)
                given = rows.bags[piece].weights
            if self._weighted:
                weights.append(np.ones(len(values[-1]), np.float32) if given is None else given)
        return KeyedJaggedTensor(
            keys=self._keys,
            values=torch.from_numpy(np.concatenate(values)),
            weights=torch.from_numpy(np.concatenate(weights)) if self._weighted else None,
            lengths=torch.from_numpy(lengths_FB.reshape(-1)),
        )

    def _lost_2C(self, rows: EncodedRows) -> torch.Tensor | None:
        if not self._with_oov and not self._cut:
            return None
        counts = []
        for number, feature in self._with_oov:
            ids = rows.bags[number].values if feature.multi_hot else rows.ids_Fn[number]
            counts.append([float((ids == feature.oov_row).sum()), float(len(ids))])
        for bag in (rows.bags[number] for number in self._cut):
            dropped = 0.0 if bag.dropped is None else float(bag.dropped.sum())
            counts.append([dropped, dropped + len(bag.values)])
        return torch.tensor(counts, dtype=torch.float64).T.contiguous()


def _take(
    rows: EncodedRows, bags: list[Bag], order: np.ndarray, start: int, stop: int
) -> EncodedRows:
    """Return the rows at positions [start, stop) of an order, which `bags` have already."""
    some = order[start:stop]
    return EncodedRows(
        rows.ids_Fn.take(some, axis=1),
        [bag.slice(start, stop) for bag in bags],
        rows.dense_nN.take(some, axis=0),
        rows.labels_nK.take(some, axis=0),
        rows.masks_nK.take(some, axis=0),
        rows.weights_n.take(some),
        None if rows.oracle_nK is None else rows.oracle_nK.take(some, axis=0),
        rows.rows_n.take(some),
    )


def _joined(parts: list[EncodedRows]) -> EncodedRows:
    return parts[0] if len(parts) == 1 else EncodedRows.concatenate(parts)


def _take_bag(bag: Bag, order: np.ndarray) -> Bag:
    weights = None if bag.weights is None else torch.from_numpy(bag.weights)
    taken = torch.ops.fbgemm.permute_1D_sparse_data(
        torch.from_numpy(order.astype(np.int32)),
        torch.from_numpy(bag.lengths),
        torch.from_numpy(bag.values),
        weights,
        None,
    )
    return Bag(
        taken[1].numpy(),
        taken[0].numpy(),
        None if weights is None else taken[2].numpy(),
        None if bag.dropped is None else np.take(bag.dropped, order),
    )


def _padded(values: np.ndarray, size: int, fill: float = 0) -> np.ndarray:
    if len(values) == size:
        return values
    padded = np.full((size, *values.shape[1:]), fill, values.dtype)
    padded[: len(values)] = values
    return padded
