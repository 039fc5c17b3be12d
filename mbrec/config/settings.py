"""The typed schema of the configuration. Imports nothing heavy: `--help` reads it.

A task, a column and the synthetic world are their own schema (`Task`, `Columns`, `Synthetic`);
here are the settings that belong to no such object. `mbrec.job` reads a `Config`; other packages
are passed what they need.
"""

import os
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from mbrec import UserError
from mbrec.columns.schema import Columns, Order
from mbrec.config.checkpoints import Checkpoints, Resume
from mbrec.config.guard import Guard
from mbrec.config.model import Hook, Model
from mbrec.config.overhead import Plan
from mbrec.config.synthetic import Synthetic
from mbrec.config.tasks import Reduction, Task


@dataclass
class Data:
    """Where the rows come from and how they are read.

    Attributes:
        path: folder of the data set; of all synthetic ones where `synthetic` is set.
        train: patterns of the files to train on, below `path`.
        evaluation: patterns of the files to evaluate on.
        columns: the schema of the files.
        synthetic: settings of a simulated data set, which is written below `path` if need be.
        order: how rows are dealt to ranks.
        shuffle_rows: rows of a window of the shuffle, about; 0 keeps the order of the files.
        num_workers: reader processes of each rank; 0 reads in a thread.
    """

    path: str = MISSING
    train: list[str] = MISSING
    evaluation: list[str] = MISSING
    columns: Columns = MISSING
    synthetic: Synthetic | None = None
    order: Order = Order.dealt
    shuffle_rows: int = 65_536
    num_workers: int = 0

    def __post_init__(self) -> None:
        _check_at_least(0, self, "shuffle_rows", "num_workers")


@dataclass
class Optimizer:
    """Row-wise Adagrad for the tables, Adam for the rest.

    Attributes:
        table_lr: learning rate of the tables.
        table_eps: added to Adagrad's denominator.
        dense_lr: learning rate of everything else.
        warmup_steps: steps until the full rates.
    """

    table_lr: float = 0.04
    table_eps: float = 1e-8
    dense_lr: float = 5e-3
    warmup_steps: int = 5

    def __post_init__(self) -> None:
        _check_at_least(0, self, "table_lr", "dense_lr", "warmup_steps")
        if not self.table_eps > 0:
            # A gradient of zero on a row that was never met would be 0 / 0.
            raise UserError(f"expected table_eps to be positive, got {self.table_eps}")


@dataclass
class TrainerSettings:
    """How long and in what steps.

    Attributes:
        global_batch_size: rows per step over all ranks.
        epochs: passes over the training rows.
        steps: stop after that many steps, whatever the epochs say.
        evaluate_every: steps between evaluations; default: only at the end.
        loss_reduction: what the sum of a task's losses is divided by.
        seed: of parameters, tables and the order of rows.
        measure_overhead: measure what the hook costs, and not train a model: blocks of steps with
            and without it take turns, nothing is evaluated or saved. As many steps as in training,
            and more where they are too few for an interval (half a minute); `steps` bounds them.
    """

    global_batch_size: int = 2048
    epochs: int = 1
    steps: int | None = None
    evaluate_every: int | None = None
    loss_reduction: Reduction = Reduction.global_batch
    seed: int = 0
    measure_overhead: bool = False

    def __post_init__(self) -> None:
        _check_at_least(1, self, "global_batch_size", "epochs", "steps", "evaluate_every")
        if self.measure_overhead and self.steps is not None and self.steps < Plan().steps:
            raise UserError(
                f"expected trainer.steps of at least {Plan().steps} with "
                f"trainer.measure_overhead=true, got {self.steps}: with fewer blocks of steps the "
                "drop has no interval to speak of"
            )


@dataclass
class MonitorSettings:
    """What is shown and kept of a run.

    Attributes:
        every: steps between two writings; each step is kept with its own number.
        balance: norms, cosines and weights of the tasks, also for a balancer that could do
            without (`Equal` then costs as much as another).
        progress: show a progress bar.
        group: column of the files, such as `user`: evaluations have the AUC within its groups.
    """

    every: int = 50
    balance: bool = True
    progress: bool = True
    group: str | None = None

    def __post_init__(self) -> None:
        _check_at_least(1, self, "every")


@dataclass
class Run:
    """Where the run is saved.

    Attributes:
        folder: parent of the runs' folders.
        name: name of the run's folder; default: MBREC_RUN_ID, or the time of the start.
    """

    folder: str = "outputs"
    name: str | None = None


@dataclass
class RuntimeSettings:
    """The processes.

    Attributes:
        timeout_s: seconds after which a rank that does not answer ends the job.
        plugins: packages besides mbrec whose classes a `_target_` may name; taken from the
            command line only.
        memory_gb: GiB of memory that tables may take on each rank; default: 85% of the GPU's
            free memory, or of this rank's share of the machine's (which a container's limit may
            be below).
    """

    timeout_s: int = 600
    plugins: list[str] = field(default_factory=list)
    memory_gb: float | None = None

    def __post_init__(self) -> None:
        if self.memory_gb is not None and not self.memory_gb > 0:
            raise UserError(f"expected runtime.memory_gb to be positive, got {self.memory_gb}")


@dataclass
class Config:
    """Everything that defines a run."""

    data: Data = MISSING
    model: Model = field(default_factory=Model)
    tasks: dict[str, Task] = field(default_factory=dict)
    balancer: dict[str, Any] = field(default_factory=dict)
    hook: Hook = field(default_factory=Hook)
    optimizer: Optimizer = field(default_factory=Optimizer)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    monitor: MonitorSettings = field(default_factory=MonitorSettings)
    run: Run = field(default_factory=Run)
    checkpoint: Checkpoints = field(default_factory=Checkpoints)
    resume: Resume = field(default_factory=Resume)
    guard: Guard = field(default_factory=Guard)
    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)

    @property
    def is_saved(self) -> bool:
        """Whether there are checkpoints; of a measurement nothing is worth keeping."""
        return self.checkpoint.enabled and not self.trainer.measure_overhead


def _check_at_least(least: float, settings: Any, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and not value >= least:
            raise UserError(f"expected {name} to be at least {least}, got {value}")


def _rank_zero(first: str, other: str) -> str:
    return first if os.environ.get("RANK", "0") == "0" else other


OmegaConf.register_new_resolver("rank_zero", _rank_zero, replace=True)
ConfigStore.instance().store(name="schema", node=Config)


def parse(node: DictConfig) -> Config:
    """Return the typed configuration, its values checked.

    Raises:
        UserError: if a value is missing or outside its range.
    """
    if missing := sorted(OmegaConf.missing_keys(node)):
        hint = "a task has settings but was not selected with tasks=[...]"
        hint = hint if missing[0].startswith("tasks.") else f"for example {missing[0]}=..."
        raise UserError(f"expected a value for {', '.join(missing)}, got none ({hint})")
    config = OmegaConf.to_object(node)
    assert isinstance(config, Config)
    if not config.tasks:
        raise UserError("expected at least one task, got tasks=[]")
    tables = config.data.columns.tables
    if unknown := [name for name in config.model.sharding if name not in tables]:
        raise UserError(
            f"expected tables ({', '.join(tables)}) in model.sharding, got {', '.join(unknown)}"
        )
    best = config.checkpoint.best
    if best is not None and best.rpartition(".")[0] not in config.tasks:
        tasks = ", ".join(config.tasks)
        raise UserError(f"expected a task ({tasks}) in checkpoint.best, got {best}")
    if config.checkpoint.patience is not None and config.trainer.evaluate_every is None:
        raise UserError("expected trainer.evaluate_every with checkpoint.patience, got null")
    return config
