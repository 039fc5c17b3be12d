"""The processes of a job: their group, and this one among the others."""

import os
import secrets
import sys
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from mbrec.distributed import loopback
from mbrec.distributed.agreement import from_rank_0
from mbrec.distributed.processes import introduce

# A rank that is in a collective notices a failed peer by itself within this time.
PATIENCE_S = 5.0


@dataclass(frozen=True)
class Runtime:
    """This process among the others.

    Attributes:
        world_size: processes in all.
        local_world_size: those on this machine.
        store: that all processes share; empty when the processes start.
        timeout_s: for a rank that does not answer.
        patience_s: after a failure of another rank, until this process is ended if it has not
            noticed it by itself.
    """

    rank: int
    world_size: int
    local_world_size: int
    device: torch.device
    store: Store
    timeout_s: float = 600
    patience_s: float = PATIENCE_S


def start(*, timeout_s: int = 600, store: Store | None = None) -> Runtime:
    """Join the process group that torchrun describes, or start one of a single process.

    NCCL carries the GPUs' collectives and gloo the CPUs'. A group that exists is kept, so that
    several jobs can run in one process.

    Args:
        timeout_s: for a rank that does not answer.
        store: that the processes find each other in, if this job is one of several in the same
            processes; default: `shared_store`.

    Raises:
        OSError: if the loopback interface is needed and is not there.
    """
    cuda = torch.cuda.is_available()
    rank, world_size, local_world_size = place()
    # After a job that fails its processes are still needed for the next one.
    patience_s = PATIENCE_S if store is None else timeout_s
    if local_world_size == world_size and sys.platform == "linux":
        # On one machine no other interface is needed, and none is listened on.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    device = torch.device("cpu")
    if cuda:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        if os.environ.get("GLOO_SOCKET_IFNAME") == "lo":
            loopback.require()
        timeout = timedelta(seconds=timeout_s)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            timeout=timeout,
            store=store or shared_store(timeout_s=timeout_s),
            rank=rank,
            world_size=world_size,
        )
    rank, world_size = dist.get_rank(), dist.get_world_size()
    store = _unused_part(dist.distributed_c10d._get_default_store())
    introduce(store, rank)
    return Runtime(rank, world_size, local_world_size, device, store, timeout_s, patience_s)


def _unused_part(store: Store) -> Store:
    """Return a part of a store, the same on every rank, that nothing has been written to.

    What processes that a restart has ended wrote there, such as a failure, concerns no others.
    """
    return PrefixStore(from_rank_0(lambda: secrets.token_hex(8)), store)


def place() -> tuple[int, int, int]:
    """Return this process's rank, the number of processes, and that on this machine."""
    for key, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        os.environ.setdefault(key, value)
    local_world_size = os.environ.setdefault("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(local_world_size)


def shared_store(*, timeout_s: int) -> Store:
    """Return the store that the processes find each other in; it is there before any group."""
    _, world_size, local_world_size = place()
    if "MASTER_ADDR" not in os.environ:
        return HashStore()
    store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=timeout_s)))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT")
    if attempt is None or local_world_size != world_size:
        # The agents of several nodes may count their restarts differently.
        return store
    # torchrun keeps its store when it starts the processes again: what dead ones have written
    # there would be taken for addresses of living ones.
    return PrefixStore(f"attempt_{attempt}", store)
