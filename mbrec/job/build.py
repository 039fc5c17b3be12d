"""Configuration -> objects, in the order of one step.

The rows come from `mbrec.job.readers`, and what outlives the process from `mbrec.job.resume`.
"""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.optim.keyed import CombinedOptimizer

from mbrec import UserError
from mbrec.balance import BalanceHook
from mbrec.config import instantiate
from mbrec.config.model import Boundary
from mbrec.config.settings import Config
from mbrec.distributed import placement, process
from mbrec.distributed.interrupt import Interrupt
from mbrec.distributed.table_init import init_tables
from mbrec.job import resume
from mbrec.job.readers import (
    batch_size,
    evaluation_reader,
    open_data,
    train_reader,
    warn_of_overlap,
)
from mbrec.metrics.excess_ne import ExcessNe
from mbrec.metrics.grouped_auc import GroupedAuc
from mbrec.metrics.lost_ids import LostIds
from mbrec.metrics.outputs import Metric, Outputs
from mbrec.metrics.task_metrics import TaskMetrics
from mbrec.model.embeddings import CategoricalModule
from mbrec.model.numerical import NumericalModule
from mbrec.model.ranker import Heads, Ranker, SharedBottom, TableGuard, count_parameters
from mbrec.monitor.monitor import Monitor
from mbrec.reader.batch import Batch
from mbrec.reader.group_column import GroupColumn
from mbrec.reader.loader import Loader
from mbrec.reader.parquet import ParquetReader
from mbrec.training import optimizers
from mbrec.training.evaluator import Evaluator
from mbrec.training.explosion_guard import explosion_guard
from mbrec.training.finite_guard import FiniteGuard
from mbrec.training.non_finite_rows import NotFiniteRows
from mbrec.training.trainer import Trainer


@dataclass
class Sharded:
    """A model on its ranks, with what runs it; without the hook there is no guard."""

    model: DistributedModelParallel
    hook: BalanceHook | None
    optimizer: CombinedOptimizer
    guard: FiniteGuard | None
    pipeline: TrainPipelineSparseDist[Batch, Outputs]
    parameters: dict[str, int]
    inputs: dict[str, int]


def bottom(config: Config, *, guard: TableGuard | None = None) -> SharedBottom:
    """Return the unsharded shared bottom; its tables are on the meta device, with their optimizer.

    Raises:
        UserError: if the interaction's class is not one that may be built.
    """
    columns, settings = config.data.columns, config.optimizer
    categorical = CategoricalModule(columns.categorical, config.model.embedding_dim)
    optimizers.fuse_table_optimizer(
        categorical.embeddings, lr=settings.table_lr, eps=settings.table_eps
    )
    numerical = None
    if columns.numerical:
        numerical = NumericalModule(columns.dense_width, config.model.numerical)
    width = categorical.out_features + (numerical.out_features if numerical else 0)
    interaction = instantiate.interaction(config.model.interaction, width, config.runtime.plugins)
    return SharedBottom(categorical, numerical, interaction, guard)


def balance_hook(config: Config, shared: SharedBottom) -> BalanceHook:
    """Return the hook, with a process group of its own.

    Collective: every rank must call it.

    Raises:
        UserError: if the balancer is none, or cannot balance there.
    """
    balancer = instantiate.balancer(config.balancer, len(config.tasks), config.runtime.plugins)
    at, module = config.hook.at, None
    if at is not Boundary.representation:
        module = getattr(shared, at.value)
        if module is None:
            raise UserError(f"expected a module of this model in hook.at, got {at.value}")
    # Its collective runs in backward, between the collectives of others.
    group = dist.new_group(timeout=timedelta(seconds=config.runtime.timeout_s))
    assert isinstance(group, dist.ProcessGroup)
    return BalanceHook(
        balancer,
        task_names=list(config.tasks),
        process_group=group,
        statistics=config.monitor.balance or config.guard.max_skipped > 0,
        parameters=module,
        lag=config.hook.lag,
    )


def ranker(
    config: Config, world_size: int, *, with_hook: bool = True, with_guard: bool = True
) -> Ranker:
    """Return the unsharded model. Collective if it has the hook: every rank must call it."""
    shared = bottom(config, guard=TableGuard() if with_hook and with_guard else None)
    hook = balance_hook(config, shared) if with_hook else None
    width = shared.interaction.out_features
    assert isinstance(width, int)
    heads = Heads(
        config.tasks,
        width,
        hook,
        reduction=config.trainer.loss_reduction,
        world_size=world_size,
    )
    return Ranker(shared, heads)


def shard(
    config: Config,
    runtime: process.Runtime,
    *,
    with_hook: bool = True,
    with_guard: bool = True,
) -> Sharded:
    """Return the model of a configuration, sharded, its tables filled, with its optimizers.

    Without the hook, and the guard that needs it, it is the model that `Equal` must equal bit for
    bit, and the baseline of every speed.
    """
    torch.manual_seed(config.trainer.seed)
    model = ranker(config, runtime.world_size, with_hook=with_hook, with_guard=with_guard)
    inputs, parameters = model.bottom.widths, count_parameters(model)
    placed = placement.place(
        model,
        list(config.data.columns.tables),
        runtime,
        batch_size=batch_size(config, runtime),
        chosen={table: kind.value for table, kind in config.model.sharding.items()},
        memory_gb=config.runtime.memory_gb,
    )
    sharded = placement.shard(model, placed, runtime)
    init_tables(sharded, config.trainer.seed)
    settings = config.optimizer
    optimizer = optimizers.combine_optimizers(
        sharded,
        dense_lr=settings.dense_lr,
        table_lr=settings.table_lr,
        table_eps=settings.table_eps,
    )
    guard = None
    if with_hook and with_guard:
        guard = _finite_guard(config, model, sharded, optimizer)
    pipeline = TrainPipelineSparseDist(
        sharded, guard or optimizer, runtime.device, execute_all_batches=True
    )
    return Sharded(sharded, model.heads.hook, optimizer, guard, pipeline, parameters, inputs)


def _finite_guard(
    config: Config, model: Ranker, sharded: DistributedModelParallel, optimizer: CombinedOptimizer
) -> FiniteGuard:
    assert model.bottom.table_guard is not None
    return FiniteGuard(
        optimizer,
        sharded.parameters(),
        model.heads,
        model.bottom.table_guard,
        max_skipped=config.guard.max_skipped,
        inputs=config.data.columns.dense_inputs,
        features=model.bottom.categorical.widths,
    )


def evaluator(
    config: Config,
    runtime: process.Runtime,
    sharded: Sharded,
    reader: ParquetReader,
    interrupt: Interrupt | None = None,
) -> Evaluator:
    """Return what scores the model on a reader's rows."""
    tasks, interrupt = list(config.tasks), interrupt or Interrupt()
    others: list[Metric] = [ExcessNe(tasks, device=runtime.device)]
    if config.monitor.group is not None:
        others.append(GroupedAuc(tasks, GroupColumn(reader, config.monitor.group).groups))
    return Evaluator(
        sharded.pipeline,
        _loader(config, runtime, reader, interrupt),
        TaskMetrics(tasks, batch_size=reader.batch_size, device=runtime.device),
        others,
        LostIds(config.data.columns.lost_ids, device=runtime.device),
        NotFiniteRows(config.data.columns.dense_inputs, reader, device=runtime.device),
        total_steps=reader.num_batches(config.data.num_workers),
        progress=config.monitor.progress and runtime.rank == 0,
        interrupt=interrupt,
    )


def trainer(
    config: Config,
    runtime: process.Runtime,
    folder: Path,
    *,
    source: Path | None = None,
    interrupt: Interrupt | None = None,
) -> tuple[Trainer, Sharded]:
    """Return the trainer of a configuration, ready to `fit`, and its model.

    Args:
        config: the run's configuration.
        runtime: this process.
        folder: of the run.
        source: a checkpoint that verified, to continue from.
        interrupt: checked between steps.

    Raises:
        UserError: if something does not fit; a checkpoint, before a row is read.
    """
    open_data(config, runtime)  # completes the schema, by which tables are placed before any row
    sharded = shard(config, runtime)
    saved = resume.load(config, sharded, source) if source else None
    reader = train_reader(config, runtime)
    evaluation = evaluation_reader(config, runtime)
    warn_of_overlap(reader, evaluation)
    assert sharded.hook is not None and sharded.guard is not None
    settings, interrupt = config.trainer, interrupt or Interrupt()
    built = Trainer(
        sharded.model,
        sharded.optimizer,
        optimizers.Warmup(sharded.optimizer, config.optimizer.warmup_steps),
        sharded.pipeline,
        _loader(config, runtime, reader, interrupt),
        evaluator(config, runtime, sharded, evaluation, interrupt),
        _monitor(config, runtime, sharded.hook, reader, folder, saved.step if saved else 0),
        sharded.guard,
        interrupt,
        epochs=settings.epochs,
        explosion=explosion_guard(config.guard, list(config.tasks)),
        max_rollbacks=config.guard.rollbacks,
        saver=resume.run_saver(config, sharded, (reader, evaluation), folder, interrupt, source),
        max_steps=settings.steps,
        evaluate_every=settings.evaluate_every,
    )
    if saved:
        resume.go_on(built, saved, runtime, evaluation)
    return built, sharded


def _monitor(
    config: Config,
    runtime: process.Runtime,
    hook: BalanceHook,
    reader: ParquetReader,
    folder: Path,
    first_step: int,
) -> Monitor:
    settings, tasks = config.trainer, list(config.tasks)
    batch_size = reader.batch_size * config.monitor.every
    steps = settings.epochs * reader.num_batches(config.data.num_workers)
    return Monitor(
        tasks,
        hook,
        TaskMetrics(tasks, batch_size=batch_size, device=runtime.device, auc=False),
        LostIds(config.data.columns.lost_ids, device=runtime.device),
        folder / "tensorboard",
        every=config.monitor.every,
        total_steps=settings.steps or steps,
        progress=config.monitor.progress and not settings.measure_overhead,
        first_step=first_step,
    )


def _loader(
    config: Config, runtime: process.Runtime, reader: ParquetReader, interrupt: Interrupt
) -> Loader:
    return Loader(
        reader,
        num_workers=config.data.num_workers,
        pin_memory=runtime.device.type == "cuda",
        interrupt=interrupt,
    )
