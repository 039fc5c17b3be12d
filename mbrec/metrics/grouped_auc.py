"""AUC within groups of rows, such as the impressions of a user.

Shapes: B rows, K tasks, N rows in all.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mbrec.distributed.agreement import gather
from mbrec.metrics.outputs import Outputs

Array = npt.NDArray[Any]


class GroupedAuc:
    """GAUC of K tasks over the rows of all ranks (Zhu et al. 2017, arXiv 1703.02091).

    The mean of the groups' AUC, weighted by their rows; a group with one label only has no AUC and
    does not count. Null is a group as well.

    Args:
        groups_of: position of rows in the data set -> the group of each, of a type that sorts.
    """

    def __init__(self, tasks: Sequence[str], groups_of: Callable[[Array], Array]) -> None:
        self._tasks, self._groups_of = list(tasks), groups_of
        self._kept: list[tuple[Array, Array, Array, Array]] = []

    def update(self, outputs: Outputs) -> None:
        """Add the rows of a step; padding is left out."""
        real = outputs.rows_B >= 0
        parts = (outputs.predictions_BK, outputs.labels_BK, outputs.masks_BK)
        predictions, labels, masks = (part[real].cpu().numpy() for part in parts)
        self._kept.append((outputs.rows_B[real].cpu().numpy(), predictions, labels, masks))

    def compute(self) -> dict[str, dict[str, float | None]]:
        """Return task -> {"gauc": value}, None where no group has both labels.

        Collective: every rank must call it.
        """
        empty = np.empty((0, len(self._tasks)))
        kept = self._kept or [(np.empty(0, np.int64), empty, empty, empty)]
        rows, *parts = (np.concatenate(part) for part in zip(*kept, strict=True))
        mine = (self._groups_of(rows), *parts)
        # Groups are spread over the ranks: each row takes 8 + 16 K bytes on every one.
        groups, predictions, labels, masks = (
            np.concatenate(part) for part in zip(*gather(mine), strict=True)
        )
        found = {}
        for k, task in enumerate(self._tasks):
            shown = masks[:, k] > 0
            columns = groups[shown], predictions[shown, k], labels[shown, k]
            found[task] = {"gauc": gauc(*columns)}
        return found

    def reset(self) -> None:
        """Forget all rows."""
        self._kept = []


def gauc(groups: Array, scores: Array, labels: Array) -> float | None:
    """Return the mean AUC of the groups with both labels, weighted by their rows; ties count half.

    Args:
        labels: (N,); positive from 0.5 on.

    >>> gauc(np.array([1, 1, 2, 2]), np.array([0.1, 0.9, 0.5, 0.5]), np.array([0, 1, 1, 0]))
    0.75
    """
    if not len(groups):
        return None
    order = np.lexsort((scores, groups))
    groups, scores, positive = groups[order], scores[order], labels[order] >= 0.5
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    # Equal scores of a group share the mean of their ranks.
    new = np.concatenate([[True], (group[1:] != group[:-1]) | (scores[1:] != scores[:-1])])
    tie = np.cumsum(new) - 1
    ranks = np.bincount(tie, np.arange(len(group)) - first[group] + 1) / np.bincount(tie)
    positives = np.bincount(group, positive)
    negatives = sizes - positives
    total = np.bincount(group, ranks[tie] * positive)
    both = (positives > 0) & (negatives > 0)
    if not both.any():
        return None
    above = total[both] - positives[both] * (positives[both] + 1) / 2
    auc = above / (positives[both] * negatives[both])
    return float(np.average(auc, weights=sizes[both]))
