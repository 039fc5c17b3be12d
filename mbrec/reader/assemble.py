"""Blocks of rows -> padded batches, with the labels and masks of the tasks.

Shapes: B rows a rank and batch, K tasks, F categorical features, C figures of lost ids.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from mbrec.columns.block import Block
from mbrec.columns.encode import Encoder
from mbrec.columns.schema import Columns
from mbrec.config.tasks import Task
from mbrec.reader.batch import Batch


class Assembler:
    """Makes batches of constant size.

    Args:
        columns: the schema.
        tasks: name -> task, in the order of the batch's columns.
        batch_size: B; a shorter block is padded with rows that count for nothing.
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
        wanted = [task.label for task in tasks.values()]
        wanted += [task.given for task in tasks.values() if task.given is not None]
        labels = list(dict.fromkeys(wanted))
        if unknown := [label for label in labels if label not in columns.labels]:
            raise ValueError(
                f"expected labels of the data set ({', '.join(columns.labels)}), "
                f"got tasks that need {', '.join(unknown)}"
            )
        has_oracle = [name for name in tasks if oracle and name in columns.oracle]
        hidden = [columns.oracle[name] for name in has_oracle]
        self.encoder = Encoder(columns, labels, hidden, vocabularies)
        self.batch_size = batch_size
        self._label = [labels.index(task.label) for task in tasks.values()]
        self._given = [
            None if task.given is None else labels.index(task.given) for task in tasks.values()
        ]
        self._oracle = [has_oracle.index(n) if n in has_oracle else None for n in tasks]
        self._keys = list(columns.categorical)
        self._multi_hot = [feature.multi_hot for feature in columns.categorical.values()]
        self._weighted = any(feature.weights for feature in columns.categorical.values())
        features = list(columns.categorical.values())
        with_oov = [self._keys.index(name) for name in columns.with_oov]
        # Feature, its number among those of its kind, and its row of unknown ids.
        self._with_oov = [(f, self._number(f), features[f].oov_row) for f in with_oov]
        self._cut = [self._number(self._keys.index(name)) for name in columns.cut]

    def __call__(self, block: Block) -> Batch:
        """Return the batch of a block of at most B rows."""
        n, size, num_tasks = len(block), self.batch_size, len(self._label)
        labels_BK = np.zeros((size, num_tasks), np.float32)
        masks_BK = np.zeros((size, num_tasks), np.float32)
        for k, (label, given) in enumerate(zip(self._label, self._given, strict=True)):
            mask = 1.0 if given is None else (block.labels_nL[:, given] > 0).astype(np.float32)
            masks_BK[:n, k] = mask
            labels_BK[:n, k] = block.labels_nL[:, label] * mask
        weights_B = _pad(block.weights_n, size)
        counts_K = masks_BK.astype(np.float64).T @ weights_B.astype(np.float64)
        # Labels are 0 where they are masked.
        positives_K = labels_BK.astype(np.float64).T @ weights_B.astype(np.float64)
        return Batch(
            self._sparse(block),
            torch.from_numpy(_pad(block.dense_nN, size)),
            torch.from_numpy(labels_BK),
            torch.from_numpy(masks_BK),
            torch.from_numpy(weights_B),
            torch.from_numpy(counts_K),
            torch.from_numpy(positives_K),
            torch.from_numpy(_pad(block.rows_n, size, -1)),
            self._oracle_BK(block),
            self._lost_2C(block),
        )

    def _number(self, feature: int) -> int:
        """Return a feature's number among those that are multi-hot, or among those that are not."""
        return self._multi_hot[:feature].count(self._multi_hot[feature])

    def _sparse(self, block: Block) -> KeyedJaggedTensor:
        n = len(block)
        lengths_FB = np.zeros((len(self._keys), self.batch_size), np.int32)
        one_hot, bags, values = iter(block.ids_Fn), iter(block.bags), []
        weights: list[np.ndarray] = []
        for f, multi_hot in enumerate(self._multi_hot):
            bag = next(bags) if multi_hot else None
            if bag is None:
                values.append(next(one_hot))
                lengths_FB[f, :n] = 1
            else:
                values.append(bag.own(bag.values))
                lengths_FB[f, :n] = np.diff(bag.offsets)
            if self._weighted:
                ones = np.ones(len(values[-1]), np.float32)
                given = None if bag is None or bag.weights is None else bag.own(bag.weights)
                weights.append(ones if given is None else given)
        return KeyedJaggedTensor(
            keys=self._keys,
            values=torch.from_numpy(np.concatenate(values)),
            weights=torch.from_numpy(np.concatenate(weights)) if self._weighted else None,
            lengths=torch.from_numpy(lengths_FB.reshape(-1)),
        )

    def _lost_2C(self, block: Block) -> torch.Tensor | None:
        if not self._with_oov and not self._cut:
            return None
        counts = []
        for f, number, oov_row in self._with_oov:
            bag = block.bags[number] if self._multi_hot[f] else None
            ids = block.ids_Fn[number] if bag is None else bag.own(bag.values)
            counts.append([float((ids == oov_row).sum()), float(len(ids))])
        for bag in (block.bags[number] for number in self._cut):
            dropped = 0.0 if bag.dropped is None else float(bag.dropped.sum())
            counts.append([dropped, dropped + len(bag.own(bag.values))])
        return torch.tensor(counts, dtype=torch.float64).T.contiguous()

    def _oracle_BK(self, block: Block) -> torch.Tensor | None:
        if not block.oracle_nO.shape[1]:
            return None
        oracle_BK = np.full((self.batch_size, len(self._oracle)), np.nan)
        for k, column in enumerate(self._oracle):
            if column is not None:
                oracle_BK[: len(block), k] = block.oracle_nO[:, column]
        return torch.from_numpy(oracle_BK)


def _pad(values: np.ndarray, size: int, fill: int = 0) -> np.ndarray:
    if len(values) == size:
        return np.ascontiguousarray(values)
    padded = np.full((size, *values.shape[1:]), fill, values.dtype)
    padded[: len(values)] = values
    return padded
