"""Masked losses of K binary tasks, exact under data parallelism.

Shapes: B batch of this rank, K tasks.
"""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from mbrec.config.tasks import Reduction


def masked_bce(
    logits_BK: Tensor,
    labels_BK: Tensor,
    masks_BK: Tensor,
    counts_K: Tensor,
    *,
    reduction: Reduction,
    world_size: int,
) -> Tensor:
    """Return the K losses whose mean over the ranks is that of the global batch.

    Args:
        logits_BK: predictions before the sigmoid.
        labels_BK: in [0, 1].
        masks_BK: mask times sample weight; 0 takes a row out.
        counts_K: sum of `masks_BK` over the global batch.
        world_size: W; DDP and TorchRec divide gradients by it, so the sums here are multiplied.
    """
    losses_BK = binary_cross_entropy_with_logits(logits_BK, labels_BK, reduction="none")
    sums_K = (losses_BK * masks_BK).sum(0)
    if reduction is Reduction.global_batch:
        return sums_K / len(logits_BK)
    counts_K = counts_K.to(sums_K.dtype)
    return world_size * sums_K / torch.where(counts_K > 0, counts_K, 1.0)


def summed(
    losses_K: Tensor, counts_K: Tensor, *, rows: int, reduction: Reduction, world_size: int
) -> Tensor:
    """Return the sums of log losses that `masked_bce` has made this rank's losses of.

    Args:
        rows: rows of this rank's batch, with padding.
    """
    if reduction is Reduction.global_batch:
        return losses_K * rows
    return losses_K * counts_K / world_size
