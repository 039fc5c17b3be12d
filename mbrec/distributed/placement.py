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
import torch.distributed as dist
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
    Shard,
    ShardingOption,
    TopologyFactory,
    TrainerConfig,
)
from torchrec.distributed.types import ParameterSharding, ShardingPlan, ShardingType

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

    Args:
        runtime: this process.
        memory_gb: that limit, in GiB; default: most of the GPU's free memory, or of this rank's
            share of the machine's.
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
    """Plan the placement of the tables. A collective: rank 0 plans, and all ranks fail together.

    Args:
        model: unsharded, its embedding tables on the meta device.
        tables: their names.
        runtime: this process.
        batch_size: rows of a batch on one rank.
        chosen: table -> torchrec's name of a placement; the planner chooses for the others.
        memory_gb: GiB that tables may take on a rank; default: see `memory_limit`.

    Raises:
        ValueError: if the tables do not fit.
        RuntimeError: if the plan leaves a table out, or is not what was chosen.
    """
    answer: list[Any] = [None]
    if runtime.rank == 0:
        try:
            limit = memory_limit(runtime, memory_gb)
            answer[0] = _plan(model, tables, runtime, batch_size, chosen or {}, limit)
        except Exception as error:  # whatever it is: the other ranks wait for an answer
            answer[0] = error
    dist.broadcast_object_list(answer, src=0)
    if isinstance(answer[0], Exception):
        raise answer[0]
    placement: Placement = answer[0]
    found = {name: where.sharding_type for name, where in _placed(placement.plan)}
    if lost := sorted(set(tables) - set(found)):
        raise RuntimeError(f"expected a plan for every table, got none for {', '.join(lost)}")
    for name, kind in (chosen or {}).items():
        if found.get(name) != kind:
            raise RuntimeError(f"expected table '{name}' to be {kind}, got {found.get(name)}")
    return placement


def shard(
    model: nn.Module,
    tables: Sequence[str],
    runtime: Runtime,
    *,
    batch_size: int,
    chosen: Mapping[str, str] | None = None,
    memory_gb: float | None = None,
) -> DistributedModelParallel:
    """Place the tables, and wrap the model in DistributedModelParallel; as `place`."""
    placement = place(
        model, tables, runtime, batch_size=batch_size, chosen=chosen, memory_gb=memory_gb
    )
    if runtime.rank == 0:
        kinds = (f"{name} {where.sharding_type}" for name, where in _placed(placement.plan))
        most, limit = _human(max(placement.bytes_per_rank)), _human(placement.limit)
        log.info("tables take up to %s of %s on a rank (%s)", most, limit, ", ".join(kinds))
    sharders: list[Any] = [Sharder()]
    # Said in training: torchrec 1.8 calls what torch 2.13 renamed, for row-wise tables; FBGEMM's
    # dense kernel, of data-parallel ones, has its backward elsewhere than where torch looks.
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
    needs = _needs(options)
    total = sum(need.in_all for need in needs)
    # What cannot fit is told without a search for a plan, which may take long.
    if total > limit * runtime.world_size or any(need.on_a_rank > limit for need in needs):
        raise _infeasible(needs, runtime.world_size, limit)
    try:
        plan = planner.plan(model, sharders)
    except PlannerError as error:
        raise _infeasible(needs, runtime.world_size, limit) from error
    return Placement(plan, _bytes_per_rank(options, plan, runtime.world_size), limit)


def _placed(plan: ShardingPlan) -> list[tuple[str, ParameterSharding]]:
    modules: list[Any] = list(plan.plan.values())
    return [placed for module in modules for placed in module.items()]


def _bytes(shard: Shard) -> int:
    assert shard.storage is not None
    return shard.storage.hbm + shard.storage.ddr


def _bytes_per_rank(
    options: Sequence[ShardingOption], plan: ShardingPlan, world_size: int
) -> list[int]:
    by_kind = {(option.name, option.sharding_type): option for option in options}
    total = [0] * world_size
    for name, where in _placed(plan):
        shards = by_kind[name, where.sharding_type].shards
        for part, rank in zip(shards, where.ranks or [], strict=True):
            total[rank] += _bytes(part)
    return total


@dataclass(frozen=True)
class _Need:
    """The least that a table needs, and the placement that needs least on a rank."""

    option: ShardingOption
    on_a_rank: int
    in_all: int


def _needs(options: Sequence[ShardingOption]) -> list[_Need]:
    least: dict[str, _Need] = {}
    for option in options:
        sizes = [_bytes(part) for part in option.shards]
        known = least.get(option.name) or _Need(option, max(sizes), sum(sizes))
        best = option if max(sizes) < known.on_a_rank else known.option
        least[option.name] = _Need(
            best, min(max(sizes), known.on_a_rank), min(sum(sizes), known.in_all)
        )
    return list(least.values())


def _infeasible(needs: Sequence[_Need], world_size: int, limit: int) -> ValueError:
    too_large = [need for need in needs if need.on_a_rank > limit]
    largest = max(too_large or needs, key=lambda need: need.on_a_rank)
    name, (rows, dim) = largest.option.name, largest.option.tensor.shape
    got = f"table '{name}' ({rows:,} rows of {dim}), which needs {_human(largest.on_a_rank)} on one"
    if not too_large:
        total = _human(sum(need.in_all for need in needs))
        got = f"{total} of tables for {world_size} ranks; the largest is {got}"
    ranks = "more ranks, among which its rows are split"
    if largest.option.sharding_type != ShardingType.ROW_WISE.value:
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
