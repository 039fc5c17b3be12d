"""Processes: the group, the sharding plan, the tables' first values, and ranks in lockstep.

Shapes: K tasks.
"""

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import HashStore
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import (
    KernelConfig,
    ParameterConstraints,
    TopologyFactory,
    TrainerConfig,
)
from torchrec.distributed.types import ShardingType

from mbrec.data.batch import Batch

# Row-wise Adagrad keeps one momentum a row. Column-wise shards would keep one each, and
# data-parallel tables get no fused update: both would train another model than one rank does.
SHARDING_TYPES = [ShardingType.TABLE_WISE, ShardingType.ROW_WISE, ShardingType.TABLE_ROW_WISE]

# Part of the contract of `init_tables`: another size gives other tables.
CHUNK_ROWS = 4096


@dataclass(frozen=True)
class Runtime:
    """This process among the others."""

    rank: int
    world_size: int
    local_world_size: int
    device: torch.device


def start(*, timeout_s: int = 600) -> Runtime:
    """Join the process group that torchrun describes, or start one of a single process.

    NCCL carries the GPUs' collectives and gloo the CPUs'. A group that exists is kept, so that
    several jobs can run in one process.
    """
    cuda = torch.cuda.is_available()
    for key, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        os.environ.setdefault(key, value)
    world_size = int(os.environ["WORLD_SIZE"])
    local_world_size = int(os.environ.setdefault("LOCAL_WORLD_SIZE", str(world_size)))
    device = torch.device("cpu")
    if cuda:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            timeout=timedelta(seconds=timeout_s),
            store=None if "MASTER_ADDR" in os.environ else HashStore(),
            rank=int(os.environ["RANK"]),
            world_size=world_size,
        )
    return Runtime(dist.get_rank(), dist.get_world_size(), local_world_size, device)


def shard(
    model: nn.Module,
    tables: list[str],
    runtime: Runtime,
    *,
    batch_size: int,
    sharder: EmbeddingBagCollectionSharder | None = None,
    sharding_types: list[ShardingType] = SHARDING_TYPES,
) -> DistributedModelParallel:
    """Plan the placement of the tables, and wrap the model in DistributedModelParallel.

    Args:
        model: its embedding tables are on the meta device.
        tables: their names.
        runtime: this process.
        batch_size: rows of a batch on one rank.
        sharder: places the tables; default: torchrec's own.
        sharding_types: the placements that the planner may choose from.

    Raises:
        RuntimeError: if the plan leaves a table out.
    """
    sharders: list[Any] = [sharder or EmbeddingBagCollectionSharder()]
    planner = EmbeddingShardingPlanner(
        topology=TopologyFactory.create_topology(
            TrainerConfig(world_size=runtime.world_size, local_world_size=runtime.local_world_size),
            kernel_config=KernelConfig(compute_device=runtime.device.type),
        ),
        batch_size=batch_size,
        storage_reservation=FixedPercentageStorageReservation(0.15),
        constraints={
            name: ParameterConstraints(sharding_types=[t.value for t in sharding_types])
            for name in tables
        },
        debug=False,
    )
    plan = planner.collective_plan(model, sharders, dist.GroupMember.WORLD)
    modules = cast(Iterable[dict[str, Any]], plan.plan.values())
    planned = {name for module in modules for name in module}
    if lost := sorted(set(tables) - planned):
        raise RuntimeError(f"expected a plan for every table, got none for {', '.join(lost)}")
    with warnings.catch_warnings():  # torchrec 1.8 passes DDP an argument that torch 2.13 renamed
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return DistributedModelParallel(model, device=runtime.device, sharders=sharders, plan=plan)


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

    For each batch the ranks exchange, in one small all-reduce on the CPU, whether they have one
    and how many unmasked samples it holds. A rank without gets a batch of padding; no row is
    lost, no rank waits for one that has left. The batch goes on with the global counts. The
    exchange runs one batch ahead, so that nobody waits for it.

    Args:
        batches: this rank's batches.
        padding: makes a batch of padding rows.
        limit: stop after that many batches, on every rank the same.

    Attributes:
        exhausted: True once no rank has a batch left; False after a stop at the limit.
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
        self._next: tuple[Batch, torch.Tensor, dist.Work] | None = None
        self.exhausted = False

    def __iter__(self) -> "Lockstep":
        return self

    def __next__(self) -> Batch:
        current = self._next or self._vote()
        if current is None:
            raise StopIteration
        batch, vote, work = current
        self._next = self._vote()
        work.wait()
        if vote[0] == 0:
            # Every rank voted once more than it had to; the answer to that is the same.
            if self._next is not None:
                self._next[2].wait()
            self._left, self._next, self.exhausted = 0, None, True
            raise StopIteration
        batch.counts_K = vote[1:]
        return batch

    def _vote(self) -> tuple[Batch, torch.Tensor, dist.Work] | None:
        if self._left == 0:
            return None
        if self._left is not None:
            self._left -= 1
        batch = next(self._batches, None)
        have = torch.tensor([float(batch is not None)], dtype=torch.float64)
        batch = self._padding() if batch is None else batch
        vote = torch.cat([have, batch.counts_K])
        work = dist.all_reduce(vote, async_op=True)
        assert work is not None
        return batch, vote, work
