"""A small sum over the ranks of a group, on the shortest way.

Shapes: W ranks, n numbers.
"""

from collections.abc import Callable

import torch.distributed as dist
from torch import Tensor

# Up to here every rank sends its numbers to all others and sums them itself: one hop, where an
# all-reduce takes two and, on gloo, about three times as long. Beyond, a tree is shorter.
MAX_GATHERED_RANKS = 8
# Gradients of parameters are no small sum: gathering them would take W times their memory.
MAX_GATHERED_NUMBERS = 4096


def world_size(group: dist.ProcessGroup | None = None) -> int:
    """Return the number of ranks; 1 where torch.distributed is not in use."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size(group)
    return 1


def start_sum(values_n: Tensor, group: dist.ProcessGroup | None = None) -> Callable[[], Tensor]:
    """Start summing over the ranks; the function returned waits for the sum.

    The result has the same bits on every rank. A collective: each rank calls it equally often.

    Args:
        values_n: this rank's numbers; they may be overwritten.
        group: the ranks; default: the default group where there is one.
    """
    ranks = world_size(group)
    if ranks == 1:
        return lambda: values_n
    if ranks > MAX_GATHERED_RANKS or values_n.numel() > MAX_GATHERED_NUMBERS:
        work = dist.all_reduce(values_n, group=group, async_op=True)
        return lambda: _finished(work, values_n)
    gathered_Wn = values_n.new_empty(ranks, values_n.numel())
    work = dist.all_gather(list(gathered_Wn), values_n, group=group, async_op=True)
    return lambda: _finished(work, gathered_Wn).sum(0)


def _finished(work: dist.Work | None, result: Tensor) -> Tensor:
    assert work is not None
    work.wait()
    return result


def sum_over_ranks(values_n: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Return the sum over the ranks; see `start_sum`."""
    return start_sum(values_n, group)()


def rank_of(group: dist.ProcessGroup | None = None) -> int:
    """Return this process's rank in the group; 0 where torch.distributed is not in use."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(group)
    return 0
