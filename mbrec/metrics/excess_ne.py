"""How far a model is from the best possible one, where the true probabilities are known.

Shapes: B rows, K tasks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mbrec.balance.backward.ranks import sum_over_ranks
from mbrec.metrics.outputs import Outputs

# A prediction of 0 or 1 would make the divergence infinite; as in torchrec's NE.
EPSILON = 1e-12


class ExcessNe:
    """Excess NE of K tasks over the Bayes optimum, over the rows of all ranks.

    With p the true probability, q the prediction and H the entropy:

    * `excess_ne` = mean KL(p || q) / H(mean p), which no noise of the labels enters;
    * `label_gap` = mean (log loss of q - log loss of p) / H(mean p) on the labels, and its
      standard error `label_gap_se`. Far below zero, it says that labels leak into features.
    """

    def __init__(self, tasks: Sequence[str], *, device: torch.device) -> None:
        self.tasks = list(tasks)
        # weight, p, KL, difference of the log losses, its square
        self._sums_5K = torch.zeros(5, len(tasks), dtype=torch.float64, device=device)

    def update(self, outputs: Outputs) -> None:
        """Add the rows of a step; nothing where the data has no oracle."""
        if outputs.oracle_BK is None:
            return
        weights_BK = outputs.masks_BK.double()
        # nan marks padding, and tasks without an oracle
        weights_BK = torch.where(outputs.oracle_BK.isnan(), 0.0, weights_BK)
        p = outputs.oracle_BK.double().nan_to_num(0.5).clamp(EPSILON, 1 - EPSILON)
        # 0 * nan is nan: a masked row must not spoil the sums.
        q = torch.where(weights_BK > 0, outputs.predictions_BK.double(), 0.5)
        q = q.clamp(EPSILON, 1 - EPSILON)
        y = outputs.labels_BK.double()
        ratio_1, ratio_0 = (p / q).log(), ((1 - p) / (1 - q)).log()
        divergence = p * ratio_1 + (1 - p) * ratio_0
        difference = y * ratio_1 + (1 - y) * ratio_0
        terms = [torch.ones_like(p), p, divergence, difference, difference**2]
        self._sums_5K += torch.stack([(weights_BK * term).sum(0) for term in terms])

    def compute(self) -> dict[str, dict[str, float]]:
        """Return task -> figure -> value for the tasks that have an oracle.

        Collective: every rank must call it.
        """
        sums_5K = sum_over_ranks(self._sums_5K.flatten().clone()).view_as(self._sums_5K)
        count_K = sums_5K[0]
        rate_K, excess_K, gap_K, square_K = (sums_5K[1:] / count_K).unbind()
        entropy_K = _entropy(rate_K)
        error_K = ((square_K - gap_K**2).clamp_min(0) / count_K).sqrt()
        figures = {
            "excess_ne": excess_K / entropy_K,
            "label_gap": gap_K / entropy_K,
            "label_gap_se": error_K / entropy_K,
        }
        return {
            task: {name: float(values_K[k]) for name, values_K in figures.items()}
            for k, task in enumerate(self.tasks)
            if count_K[k] > 0
        }

    def reset(self) -> None:
        """Forget all rows."""
        self._sums_5K.zero_()


def _entropy(p: Tensor) -> Tensor:
    return -(p * p.log() + (1 - p) * (1 - p).log())
