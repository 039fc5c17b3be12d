"""Where the tables go: one plan for all ranks, within the memory that there is.

A rank holds a table whole (table-wise), some of its rows (row-wise), or a copy that is trained
like a dense parameter (data-parallel; see `mbrec.training.optimizers`).
"""

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import (
    KernelConfig,
    ParameterConstraints,
    PlannerError,
    ShardingOption,
    TopologyFactory,
    TrainerConfig,
)
from torchrec.distributed.types import ParameterSharding, ShardingPlan, ShardingType

from mbrec.distributed.agreement import from_rank_0
from mbrec.distributed.data_parallel import DataParallel, fix_buckets
from mbrec.distributed.process import Runtime

log = logging.getLogger(__name__)

# What the planner may choose from. Row-wise Adagrad keeps one momentum a row; column-wise shards
# would keep one each, and train another model than one rank does.
SHARDING_TYPES = [ShardingType.TABLE_WISE, ShardingType.ROW_WISE, ShardingType.TABLE_ROW_WISE]

# Tables stay in the memory that is planned for: no kernel that moves rows to the host.
KERNELS = [EmbeddingComputeKernel.FUSED, EmbeddingComputeKernel.DENSE]

# Part of the memory found that tables may take; the rest is for everything else.
MEMORY_SHARE = 0.85


class Sharder(EmbeddingBagCollectionSharder):
    """Row-wise tables on a CPU too: torchrec 1.8 runs them there, and does not offer them."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """Return the names of the placements."""
        stock = super().sharding_types(compute_device_type)
        return list(dict.fromkeys([*stock, ShardingType.ROW_WISE.value]))


@dataclass(frozen=True)
class Placement:
    """A plan, and what it needs.

    Attributes:
        plan: of every table.
        bytes_per_rank: estimate of the tables' weights and momentum, and a batch's rows of them.
        limit: bytes that tables may take on a rank.
    """

    plan: ShardingPlan
    bytes_per_rank: list[int]
    limit: int


def memory_limit(runtime: Runtime, memory_gb: float | None = None) -> int:
    """Return the bytes that tables may take on this rank.

    Without a limit in GiB: most of the GPU's free memory, or of this rank's share of the machine's.
    """
    if memory_gb is not None:
        return int(memory_gb * 2**30)
    if runtime.device.type == "cuda":
        found = torch.cuda.mem_get_info(runtime.device)[0]
    else:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        found = machine // runtime.local_world_size
    return int(MEMORY_SHARE * found)


def place(
    model: nn.Module,
    tables: Sequence[str],
    runtime: Runtime,
    *,
    batch_size: int,
    chosen: Mapping[str, str] | None = None,
    memory_gb: float | None = None,
) -> Placement:
    """Plan the placement of the tables. Collective: rank 0 plans, and all ranks fail together.

    Args:
        model: unsharded, its embedding tables on the meta device.
        tables: names of the tables.
        runtime: this process.
        batch_size: rows of a batch on one rank.
        chosen: table -> torchrec's name of a placement; the planner chooses for the others.
        memory_gb: GiB that tables may take on a rank; default: see `memory_limit`.

    Raises:
        ValueError: if the tables do not fit.
        RuntimeError: if the plan leaves a table out, or is not what was chosen.
    """
    chosen = chosen or {}

    def plan() -> Placement:
        limit = memory_limit(runtime, memory_gb)
        return _plan(model, tables, runtime, batch_size, chosen, limit)

    placement = from_rank_0(plan)
    found = {name: where.sharding_type for name, where in _placed(placement.plan)}
    if lost := sorted(set(tables) - set(found)):
        raise RuntimeError(f"expected a plan for every table, got none for {', '.join(lost)}")
    for name, kind in chosen.items():
        if found.get(name) != kind:
            raise RuntimeError(f"expected table '{name}' to be {kind}, got {found.get(name)}")
    return placement


def shard(model: nn.Module, placement: Placement, runtime: Runtime) -> DistributedModelParallel:
    """Wrap the model in DistributedModelParallel, its tables where a plan has them."""
    if runtime.rank == 0:
        kinds = (f"{name} {where.sharding_type}" for name, where in _placed(placement.plan))
        most, limit = _human(max(placement.bytes_per_rank)), _human(placement.limit)
        log.info("tables take up to %s of %s on a rank (%s)", most, limit, ", ".join(kinds))
    sharders: list[Any] = [Sharder()]
    # Two warnings of training: torchrec 1.8 calls what torch 2.13 renamed, for row-wise tables;
    # FBGEMM's dense kernel, of data-parallel ones, has its backward where torch does not look.
    renamed = r".*(reduce_scatter_tensor|all_gather_into_tensor)` is deprecated"
    warnings.filterwarnings("ignore", renamed, FutureWarning)
    warnings.filterwarnings("ignore", "fbgemm::dense_embedding_codegen_lookup", UserWarning)
    with warnings.catch_warnings():  # torchrec 1.8 passes DDP an argument that torch 2.13 renamed
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        sharded = DistributedModelParallel(
            model,
            device=runtime.device,
            sharders=sharders,
            plan=placement.plan,
            data_parallel_wrapper=DataParallel(),
        )
    fix_buckets(sharded)
    return sharded


def _plan(
    model: nn.Module,
    tables: Sequence[str],
    runtime: Runtime,
    batch_size: int,
    chosen: Mapping[str, str],
    limit: int,
) -> Placement:
    device = runtime.device.type
    offered = EmbeddingBagCollectionSharder().sharding_types(device)
    free = [kind.value for kind in SHARDING_TYPES if kind.value in offered]
    constraints = {
        name: ParameterConstraints(
            sharding_types=[chosen[name]] if name in chosen else free,
            compute_kernels=[kernel.value for kernel in KERNELS],
        )
        for name in tables
    }
    topology = TopologyFactory.create_topology(
        TrainerConfig(
            world_size=runtime.world_size,
            local_world_size=runtime.local_world_size,
            hbm_cap_bytes=limit,
            ddr_cap_bytes=limit,
        ),
        kernel_config=KernelConfig(compute_device=device),
    )
    enumerator = EmbeddingEnumerator(topology, batch_size, constraints)
    planner = EmbeddingShardingPlanner(
        topology=topology,
        batch_size=batch_size,
        enumerator=enumerator,
        storage_reservation=FixedPercentageStorageReservation(0.0),
        constraints=constraints,
        debug=False,
    )
    sharders: list[Any] = [Sharder()]
    options = enumerator.enumerate(model, sharders)
    least, total = _least(options)
    infeasible = _infeasible(least, total, runtime.world_size, limit)
    # What cannot fit is refused without a search for a plan, which may take long.
    if total > limit * runtime.world_size or any(_bytes_on_a_rank(o) > limit for o in least):
        raise infeasible
    try:
        plan = planner.plan(model, sharders)
    except PlannerError as error:
        raise infeasible from error
    return Placement(plan, _bytes_per_rank(options, plan, runtime.world_size), limit)


def _placed(plan: ShardingPlan) -> list[tuple[str, ParameterSharding]]:
    modules: list[Any] = list(plan.plan.values())
    return [placed for module in modules for placed in module.items()]


def _shard_bytes(option: ShardingOption) -> list[int]:
    storages = [shard.storage for shard in option.shards]
    return [storage.hbm + storage.ddr for storage in storages if storage is not None]


def _bytes(option: ShardingOption) -> int:
    return sum(_shard_bytes(option))


def _bytes_on_a_rank(option: ShardingOption) -> int:
    return max(_shard_bytes(option))


def _least(options: Sequence[ShardingOption]) -> tuple[list[ShardingOption], int]:
    """Return each table's placement that needs least on a rank, and the least bytes of all."""
    by_table: dict[str, list[ShardingOption]] = {}
    for option in options:
        by_table.setdefault(option.name, []).append(option)
    total = sum(min(map(_bytes, choices)) for choices in by_table.values())
    return [min(choices, key=_bytes_on_a_rank) for choices in by_table.values()], total


def _bytes_per_rank(
    options: Sequence[ShardingOption], plan: ShardingPlan, world_size: int
) -> list[int]:
    by_kind = {(option.name, option.sharding_type): option for option in options}
    total = [0] * world_size
    for name, where in _placed(plan):
        sizes = _shard_bytes(by_kind[name, where.sharding_type])
        for size, rank in zip(sizes, where.ranks or [], strict=True):
            total[rank] += size
    return total


def _infeasible(
    least: Sequence[ShardingOption], total: int, world_size: int, limit: int
) -> ValueError:
    """Return the error of tables that do not fit.

    Args:
        least: the placement of each table that needs least on a rank.
        total: least bytes of all tables, on all ranks together.
        world_size: ranks.
        limit: bytes for tables on each.
    """
    too_large = [option for option in least if _bytes_on_a_rank(option) > limit]
    largest = max(too_large or least, key=_bytes_on_a_rank)
    name, (rows, dim), size = largest.name, largest.tensor.shape, _bytes_on_a_rank(largest)
    got = f"table '{name}' ({rows:,} rows of {dim}), which needs {_human(size)} on one"
    if not too_large:
        got = f"{_human(total)} of tables for {world_size} ranks; the largest is {got}"
    ranks = "more ranks, among which its rows are split"
    if largest.sharding_type != ShardingType.ROW_WISE.value:
        choice = f"++model.sharding.{name}=row_wise"
        ranks = f"its rows split among the ranks ({choice}), and more ranks if need be"
    return ValueError(
        f"expected tables that fit on {world_size} ranks with {_human(limit)} for tables on each, "
        f"got {got} (weights, momentum, a batch of rows). Remedies:\n"
        f"  1. {ranks}\n"
        "  2. a smaller table: embedding_dim, and hash_size or cardinality, of its features\n"
        "  3. machines with more memory, or runtime.memory_gb=..., if tables may take more of it"
    )


def _human(size: int) -> str:
    """Return a number of bytes, in a unit that is easy to read as well."""
    value, unit = float(size), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{size:,} bytes" + ("" if unit == "bytes" else f" ({value:,.2f} {unit})")
