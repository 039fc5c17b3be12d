"""What each rank would weigh by its own rows: how far rank-local balancing would drift apart.

Shapes: K tasks, W ranks.
"""

import copy
from collections.abc import Sequence

from torch import Tensor

from mbrec.balance import Balancer, GramianBalancer
from mbrec.balance.backward.ranks import rank_of, sum_over_ranks, world_size


def weigh_by_rank(balancer: GramianBalancer, local_KK: Tensor, losses_K: Tensor) -> Tensor:
    """Return the weights (W, K) that each rank would have chosen from its own rows.

    Collective: every rank must call it.

    A copy of the balancer weighs, in the state that the balancer is in; the balancer itself stays
    as it is. A rank has 1/W of the rows, so its squared norms are W times those of the global
    batch, which the state has seen; they are divided by it.

    Args:
        local_KK: this rank's `BalanceHook.local_gramian`.
    """
    ranks, twin = world_size(), copy.deepcopy(balancer)
    weights_WK = local_KK.new_zeros(ranks, balancer.num_tasks)
    losses = losses_K if balancer.needs_losses else None
    weights_WK[rank_of()] = twin(local_KK / ranks, losses_K=losses)
    return sum_over_ranks(weights_WK.flatten()).view_as(weights_WK)


def figures(
    balancer: Balancer, tasks: Sequence[str], local_KK: Tensor | None, losses_K: Tensor
) -> dict[str, float]:
    """Return `rank_weight/<rank>/<task>` and `rank_weight_spread/<task>`.

    Collective: every rank must call it.

    Nothing where there is nothing to compare: one rank, one task, constant weights, or a method
    that needs more than inner products.

    Args:
        local_KK: this rank's `BalanceHook.local_gramian`.
    """
    if not isinstance(balancer, GramianBalancer) or balancer.constant_weights is not None:
        return {}
    if local_KK is None or len(tasks) == 1 or world_size() == 1:
        return {}
    weights_WK = weigh_by_rank(balancer, local_KK, losses_K)
    spread_K = weights_WK.amax(0) - weights_WK.amin(0)
    rows = {f"rank_weight/{rank}": row for rank, row in enumerate(weights_WK.tolist())}
    rows["rank_weight_spread"] = spread_K.tolist()
    return {
        f"{name}/{task}": value
        for name, row in rows.items()
        for task, value in zip(tasks, row, strict=True)
    }
