"""Configuration -> objects, in the order of one step; the rows come from `mbrec.sources`.

The two are the only readers of a `Config`.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.optim.keyed import CombinedOptimizer

from mbrec import distributed, optim
from mbrec.balance import BalanceHook, Balancer
from mbrec.config import Boundary, Config
from mbrec.data.batch import Batch
from mbrec.data.loader import Loader
from mbrec.data.parquet import ParquetReader
from mbrec.instantiate import instantiate
from mbrec.metrics import TaskMetrics
from mbrec.model import Heads, Outputs, Ranker, SharedBottom, count_parameters
from mbrec.modules.categorical import CategoricalModule
from mbrec.modules.numerical import NumericalModule
from mbrec.monitor import Monitor
from mbrec.oracle import OracleGap
from mbrec.sources import batch_size, evaluation_reader, train_reader, warn_of_overlap
from mbrec.trainer import Evaluator, Trainer
from mbrec.unknown import UnknownIds


@dataclass
class Sharded:
    """A model on its ranks, with what runs it."""

    model: DistributedModelParallel
    hook: BalanceHook | None
    optimizer: CombinedOptimizer
    pipeline: TrainPipelineSparseDist[Batch, Outputs]
    parameters: dict[str, int]


def run_folder(config: Config, runtime: distributed.Runtime) -> Path:
    """Return the folder of this run, the same on every rank; rank 0 makes it.

    Raises:
        ValueError: on every rank, if a finished run is there.
    """
    name = config.run.name or os.environ.get("MBREC_RUN_ID") or time.strftime("%Y-%m-%d_%H-%M-%S")
    folder = Path(config.run.folder) / name
    chosen = [(folder, any((folder / n).exists() for n in ("metrics.json", "checkpoint")))]
    dist.broadcast_object_list(chosen, src=0)
    ((folder, taken),) = chosen
    if taken:
        raise ValueError(f"expected a new run, got run.name={folder.name}: {folder} holds one")
    if runtime.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
    dist.barrier()
    return folder


def bottom(config: Config) -> SharedBottom:
    """Return the unsharded shared bottom; its tables are on the meta device, with their optimizer.

    Raises:
        ValueError: if the interaction's class is not one that may be built.
    """
    columns, settings = config.data.columns, config.optimizer
    categorical = CategoricalModule(columns.categorical, config.model.embedding_dim)
    optim.fuse_table_optimizer(categorical.embeddings, lr=settings.table_lr, eps=settings.table_eps)
    numerical = None
    if columns.numerical:
        numerical = NumericalModule(columns.dense_width, config.model.numerical)
    width = categorical.out_features + (numerical.out_features if numerical else 0)
    plugins = config.runtime.plugins
    interaction = instantiate(config.model.interaction, width, plugins=plugins)
    return SharedBottom(categorical, numerical, interaction)


def balance_hook(config: Config, shared: SharedBottom) -> BalanceHook:
    """Return the hook, with a process group of its own. A collective.

    Args:
        config: of the run.
        shared: the bottom that `hook.at` names a module of.

    Raises:
        ValueError: if the balancer is none, or cannot balance there.
    """
    balancer = instantiate(
        config.balancer, plugins=config.runtime.plugins, num_tasks=len(config.tasks)
    )
    if not isinstance(balancer, Balancer):
        raise ValueError(f"expected a Balancer in balancer._target_, got {type(balancer)}")
    at, module = config.hook.at, None
    if at is not Boundary.representation:
        module = getattr(shared, at.value)
        if module is None:
            raise ValueError(f"expected a module of this model in hook.at, got {at.value}")
    # Its collective runs in backward, between the collectives of others.
    group = dist.new_group()
    assert isinstance(group, dist.ProcessGroup)
    return BalanceHook(
        balancer,
        task_names=list(config.tasks),
        process_group=group,
        statistics=config.monitor.balance,
        parameters=module,
        lag=config.hook.lag,
    )


def ranker(config: Config, world_size: int, *, with_hook: bool = True) -> Ranker:
    """Return the unsharded model. A collective, if it has the hook."""
    shared = bottom(config)
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


def shard(config: Config, runtime: distributed.Runtime, *, with_hook: bool = True) -> Sharded:
    """Return the model of a configuration, sharded, its tables filled, with its optimizers.

    Without the hook it is the model that `Equal` must equal bit for bit, and the baseline of
    every speed.
    """
    torch.manual_seed(config.trainer.seed)
    model = ranker(config, runtime.world_size, with_hook=with_hook)
    hook, parameters = model.heads.hook, count_parameters(model)
    sharded = distributed.shard(
        model,
        list(config.data.columns.tables),
        runtime,
        batch_size=batch_size(config, runtime),
    )
    distributed.init_tables(sharded, config.trainer.seed)
    optimizer = optim.combine_optimizers(sharded, lr=config.optimizer.dense_lr)
    pipeline = TrainPipelineSparseDist(sharded, optimizer, runtime.device, execute_all_batches=True)
    return Sharded(sharded, hook, optimizer, pipeline, parameters)


def evaluator(
    config: Config, runtime: distributed.Runtime, sharded: Sharded, reader: ParquetReader
) -> Evaluator:
    """Return what scores the model on a reader's rows."""
    tasks = list(config.tasks)
    return Evaluator(
        sharded.pipeline,
        _loader(config, runtime, reader),
        TaskMetrics(tasks, batch_size=reader.batch_size, device=runtime.device),
        OracleGap(tasks, device=runtime.device),
        UnknownIds(config.data.columns.counted, device=runtime.device),
        total_steps=reader.num_batches(config.data.num_workers),
        progress=config.monitor.progress and runtime.rank == 0,
    )


def trainer(config: Config, runtime: distributed.Runtime, folder: Path) -> tuple[Trainer, Sharded]:
    """Return the trainer of a configuration, ready to `fit`, and its model."""
    reader = train_reader(config, runtime)
    evaluation = evaluation_reader(config, runtime)
    warn_of_overlap(reader, evaluation)
    sharded = shard(config, runtime)
    assert sharded.hook is not None
    settings, tasks = config.trainer, list(config.tasks)
    steps = settings.epochs * reader.num_batches(config.data.num_workers)
    monitor = Monitor(
        tasks,
        sharded.hook,
        TaskMetrics(
            tasks,
            batch_size=reader.batch_size * config.monitor.every,
            device=runtime.device,
            auc=False,
        ),
        UnknownIds(config.data.columns.counted, device=runtime.device),
        folder / "tensorboard",
        every=config.monitor.every,
        rows_per_step=settings.global_batch_size,
        total_steps=settings.steps or steps,
        progress=config.monitor.progress,
    )
    built = Trainer(
        sharded.model,
        sharded.optimizer,
        optim.Warmup(sharded.optimizer, config.optimizer.warmup_steps),
        sharded.pipeline,
        _loader(config, runtime, reader),
        evaluator(config, runtime, sharded, evaluation),
        monitor,
        epochs=settings.epochs,
        max_steps=settings.steps,
        evaluate_every=settings.evaluate_every,
    )
    return built, sharded


def _loader(config: Config, runtime: distributed.Runtime, reader: ParquetReader) -> Loader:
    return Loader(
        reader,
        num_workers=config.data.num_workers,
        pin_memory=runtime.device.type == "cuda",
    )
