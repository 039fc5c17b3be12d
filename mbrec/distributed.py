"""Processes: the group, the tables' first values, and ranks in lockstep.

Shapes: K tasks.
"""

import hashlib
import os
import secrets
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, PrefixStore, Store
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed.rendezvous import rendezvous
from torchrec.distributed.model_parallel import DistributedModelParallel

from mbrec import loopback
from mbrec.balance.ranks import start_sum
from mbrec.data.batch import Batch
from mbrec.data.loader import Stalled
from mbrec.processes import introduce

# Part of the contract of `init_tables`: another size gives other tables.
CHUNK_ROWS = 4096

# Batches that the ranks vote on at a time; no more than a loader reads ahead.
VOTED_BATCHES = 4

# A rank that is in a collective notices a failed peer by itself within this time.
PATIENCE_S = 5.0


@dataclass(frozen=True)
class Runtime:
    """This process among the others.

    Attributes:
        rank: of this process.
        world_size: processes in all.
        local_world_size: those on this machine.
        device: of this process.
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
    chosen = [secrets.token_hex(8)]
    dist.broadcast_object_list(chosen, src=0)
    return PrefixStore(chosen[0], store)


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


@torch.no_grad()
def init_tables(model: DistributedModelParallel, seed: int) -> None:
    """Fill every table from its own seed: the same values under any plan and number of ranks.

    DMP would call an initialiser on each shard on its own rank, without its offset. Values are
    uniform in +-1/sqrt(rows), as torchrec's own.
    """
    for key, value in model.state_dict().items():
        if ".embedding_bags." not in key:
            continue
        if isinstance(value, ShardedTensor):
            size = value.metadata().size
            parts = [(part.tensor, part.metadata.shard_offsets) for part in value.local_shards()]
        else:
            size, parts = value.shape, [(value, [0, 0])]
        table, (num_rows, dim) = key.split(".")[-2], size
        for tensor, (row, column) in parts:
            rows = _table_rows(table, row, len(tensor), dim, num_rows**-0.5, seed)
            tensor.copy_(rows[:, column : column + tensor.shape[1]])


def _table_rows(
    table: str, start: int, count: int, dim: int, bound: float, seed: int
) -> torch.Tensor:
    if not count:
        return torch.empty(0, dim)
    first, last = start // CHUNK_ROWS, (start + count - 1) // CHUNK_ROWS
    parts = []
    for chunk in range(first, last + 1):
        key = f"{seed}/{table}/{chunk}".encode()  # hash() is salted per process
        number = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1
        generator = torch.Generator().manual_seed(number)
        parts.append(torch.empty(CHUNK_ROWS, dim).uniform_(-bound, bound, generator=generator))
    return torch.cat(parts)[start - first * CHUNK_ROWS :][:count]


class Lockstep:
    """Iterates over this rank's batches until the last rank has run out of them.

    The ranks tell each other which of their next batches they have, and how many unmasked
    samples and positive labels each holds: one small collective on the CPU for a few batches, which
    runs ahead, so that nobody waits for it. A rank without a batch gets one of padding; no row is
    lost, no rank waits for one that has left. Each batch goes on with the global counts.

    A rank whose reader stalls when the job is asked to stop votes for it, and all ranks stop before
    the same batch.

    Args:
        batches: this rank's batches.
        padding: makes a batch of padding rows.
        limit: stop after that many batches, on every rank the same.

    Attributes:
        exhausted: True once no rank has a batch left; False after a stop at the limit.
        stopped: True once the job was asked to stop and a rank's next batch does not come.
    """

    def __init__(
        self,
        batches: Iterator[Batch],
        padding: Callable[[], Batch],
        *,
        limit: int | None = None,
    ) -> None:
        self._batches = batches
        self._padding = padding
        self._left = limit
        self._ready: deque[Batch] = deque()
        self._voted: tuple[list[Batch], Callable[[], torch.Tensor]] | None = None
        self._stalled = False
        self.exhausted = self.stopped = False

    def __iter__(self) -> "Lockstep":
        return self

    def __next__(self) -> Batch:
        if not self._ready:
            self._take()
        if not self._ready:
            raise StopIteration
        return self._ready.popleft()

    def _take(self) -> None:
        voted = self._voted or self._vote()
        if voted is None:
            return
        # The next vote starts before the answer to this one is read.
        self._voted = self._vote()
        batches, answer = voted
        for batch, row in zip(batches, answer().view(len(batches), -1), strict=True):
            stop, have = row[:2].tolist()
            self.stopped = stop > 0
            self.exhausted = not have and not stop
            if self.stopped or self.exhausted:
                break
            counts_K, positives_K = row[2:].chunk(2)
            batch.counts_K.copy_(counts_K)
            batch.positives_K.copy_(positives_K)
            self._ready.append(batch)
        if (self.stopped or self.exhausted) and self._voted is not None:
            self._voted[1]()  # every rank voted once more; no answer may be left behind
            self._voted, self._left = None, 0

    def _vote(self) -> tuple[list[Batch], Callable[[], torch.Tensor]] | None:
        size = VOTED_BATCHES if self._left is None else min(VOTED_BATCHES, self._left)
        if self.exhausted or self.stopped or not size:
            return None
        if self._left is not None:
            self._left -= size
        found = self._read(size)
        batches = found + [self._padding() for _ in range(size - len(found))]
        have_n = torch.arange(size) < len(found)
        stop_n = ~have_n & self._stalled
        votes_n2 = torch.stack([stop_n, have_n], dim=1).double()
        counts_nK = torch.stack([batch.counts_K for batch in batches])
        positives_nK = torch.stack([batch.positives_K for batch in batches])
        told = torch.cat([votes_n2, counts_nK, positives_nK], dim=1)
        return batches, start_sum(told.flatten())

    def _read(self, size: int) -> list[Batch]:
        """Return the next batches; fewer at the end, or if the reader stalls at a stop."""
        found: list[Batch] = []
        try:
            while not self._stalled and len(found) < size:
                found.append(next(self._batches))
        except StopIteration:
            pass
        except Stalled:
            self._stalled = True
        return found
