"""A batch on its way from the reader to the model.

Shapes: B batch, K tasks, F categorical features, N numerical inputs, C figures of lost ids.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable


@dataclass
class Batch(Pipelineable):
    """B rows of one rank; a short tail is padded with rows whose masks and weight are 0.

    Attributes:
        sparse: ids of the F categorical features, in config order.
        dense_BN: float32, transformed numerical features.
        labels_BK: float32 in [0, 1]; 0 where masked.
        masks_BK: float32, 1 where the row counts for the task.
        weights_B: float32 sample weights, 0 for padding.
        counts_K: float64, sum of masks times weights; of this rank as the reader makes it, of
            the global batch after `Lockstep`.
        positives_K: float64, sum of labels times masks times weights; of this rank and then of the
            global batch, as `counts_K`.
        rows_B: int64, position of the row in the data set, -1 for padding.
        oracle_BK: float64 true probabilities, nan where a task has none; None without an oracle.
        lost_2C: float64, how many ids are outside a vocabulary or cut off, and of how many, for
            each of `Columns.lost_ids`; None where there is none.
    """

    sparse: KeyedJaggedTensor
    dense_BN: Tensor
    labels_BK: Tensor
    masks_BK: Tensor
    weights_B: Tensor
    counts_K: Tensor
    positives_K: Tensor
    rows_B: Tensor
    oracle_BK: Tensor | None = None
    lost_2C: Tensor | None = None

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        """Return the batch on a device; itself where it is there already."""
        if self.dense_BN.device == device:
            return self
        return self._map(lambda part: part.to(device, non_blocking=non_blocking))

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep the memory until the stream has used it (torchrec's pipelines call this)."""
        for field in fields(self):
            if (part := getattr(self, field.name)) is not None:
                part.record_stream(stream)

    def pin_memory(self) -> "Batch":
        """Return the batch in page-locked memory, for copies that overlap with compute."""
        return self._map(lambda part: part.pin_memory())

    def _map(self, apply: Callable[[Any], Any]) -> "Batch":
        parts: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        applied = {k: apply(part) for k, part in parts.items() if part is not None}
        return Batch(**applied)
