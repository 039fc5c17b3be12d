"""How many ids were outside the vocabularies or cut off, over all ranks.

Shapes: C figures that are counted.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mbrec.balance.backward.ranks import sum_over_ranks


class LostIds:
    """The fraction of ids that a policy has taken from the model, by figure.

    Args:
        figures: names of the columns of `Batch.lost_2C`, in order; may be none.
    """

    def __init__(self, figures: Sequence[str], *, device: torch.device) -> None:
        self.figures = list(figures)
        self._counts_2C = torch.zeros(2, len(figures), dtype=torch.float64, device=device)

    def update(self, lost_2C: Tensor | None) -> None:
        """Add the counts of a batch; nothing where none are counted."""
        if lost_2C is not None:
            self._counts_2C += lost_2C

    def compute(self) -> dict[str, float]:
        """Return figure -> fraction in [0, 1], where there were ids; start again.

        Collective: every rank must call it.
        """
        if not self.figures:
            return {}
        counts_2C = sum_over_ranks(self._counts_2C.flatten().clone()).view_as(self._counts_2C)
        self._counts_2C.zero_()
        lost_C, ids_C = counts_2C.tolist()
        pairs = zip(self.figures, lost_C, ids_C, strict=True)
        return {name: lost / ids for name, lost, ids in pairs if ids}
