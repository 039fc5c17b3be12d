"""How the ranks agree: rank 0 decides, or each says its part and all hear the same.

Each function is collective: every rank must call it, in the same order as the others.
"""

import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist
from torch._C._distributed_c10d import Store

from mbrec.distributed.failures import PeerFailure, reported
from mbrec.distributed.processes import Processes

T = TypeVar("T")


def from_rank_0(make: Callable[[], T]) -> T:
    """Return on every rank what rank 0 makes; what it raises is raised on every rank.

    A process without a group is its own rank 0.
    """
    if not dist.is_initialized():
        return make()
    answer: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            answer[0] = make()
        except Exception as error:  # whatever it is: the other ranks wait for an answer
            answer[1] = error
    dist.broadcast_object_list(answer, src=0)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def gather(value: T, group: dist.ProcessGroup | None = None) -> list[T]:
    """Return the values of all ranks, in their order."""
    values = [value] * dist.get_world_size(group)
    dist.all_gather_object(values, value, group=group)
    return values


def first_problem(work: Callable[[], object], group: dist.ProcessGroup | None = None) -> str | None:
    """Do this rank's part of a work on files; return the first problem that any rank had."""
    problem = None
    try:
        work()
    except (OSError, ValueError) as error:
        problem = f"{error} (rank {dist.get_rank(group)})"
    return next((text for text in gather(problem, group) if text is not None), None)


def after_rank_0(
    store: Store, rank: int, name: str, work: Callable[[], object], *, poll_s: float = 0.2
) -> None:
    """Let rank 0 do something long, while the others wait as long as it is alive.

    A collective would end the job after `runtime.timeout_s`.

    Args:
        store: of the job.
        rank: this one.
        name: of the work, different from that of any other work of the job.
        work: done on rank 0.
        poll_s: seconds between two checks.

    Raises:
        PeerFailure: on the other ranks, if rank 0 has failed or died.
    """
    if rank == 0:
        work()
        store.set(f"done/{name}", "")
        return
    processes = Processes(store, [0])
    while not store.check([f"done/{name}"]):
        if reason := reported(store, [0]):
            raise PeerFailure(reason)
        if processes.look().dead and not store.check([f"done/{name}"]):
            raise PeerFailure("rank 0 no longer answers: it has died")
        time.sleep(poll_s)
