"""How many ids were outside the vocabularies, over all ranks.

Shapes: C features that are counted.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mbrec.balance.ranks import sum_over_ranks


class UnknownIds:
    """The fraction of ids that took the row for unknown ones, by feature.

    Args:
        features: names of those that are counted, in the order of `Batch.unknown_2C`; may be none.
        device: of the batches.
    """

    def __init__(self, features: Sequence[str], *, device: torch.device) -> None:
        self.features = list(features)
        self._counts_2C = torch.zeros(2, len(features), dtype=torch.float64, device=device)

    def update(self, unknown_2C: Tensor | None) -> None:
        """Add the counts of a batch; nothing where no feature is counted."""
        if unknown_2C is not None:
            self._counts_2C += unknown_2C

    def compute(self) -> dict[str, float]:
        """Return feature -> fraction in [0, 1], where there were ids; start again. A collective."""
        if not self.features:
            return {}
        counts_2C = sum_over_ranks(self._counts_2C.flatten().clone()).view_as(self._counts_2C)
        self._counts_2C.zero_()
        unknown_C, ids_C = counts_2C.tolist()
        pairs = zip(self.features, unknown_C, ids_C, strict=True)
        return {name: unknown / ids for name, unknown, ids in pairs if ids}
