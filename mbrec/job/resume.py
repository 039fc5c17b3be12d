"""The checkpoint that a run continues from, how it is loaded, and what saves the run."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist

from mbrec import UserError
from mbrec.checkpoint import folder as checkpoints
from mbrec.checkpoint import restore, state
from mbrec.checkpoint.match import Layout, inputs_differ
from mbrec.checkpoint.saver import Saver
from mbrec.checkpoint.state import RunState
from mbrec.config.instantiate import interaction
from mbrec.config.saved import plain
from mbrec.config.settings import Config
from mbrec.distributed.interrupt import Interrupt
from mbrec.distributed.process import Runtime
from mbrec.job import readers as sources
from mbrec.job.compatibility import check_settings, check_vocabularies, warn_of_evaluation
from mbrec.reader import dataset
from mbrec.reader.parquet import ParquetReader
from mbrec.training.run_saver import RunSaver, restore_random_state
from mbrec.training.trainer import Trainer

if TYPE_CHECKING:
    from mbrec.job.build import Sharded

log = logging.getLogger(__name__)


def source(config: Config, run: Path) -> Path | None:
    """Return the checkpoint that a run continues from, or None.

    Collective: every rank must call it.

    Raises:
        UserError: on every rank, if there is none where one was asked for, or none is whole.
    """
    path = config.resume.path
    # A restart by the same command continues from what the run itself has saved since.
    found = restore.choose("none" if path == "none" else "auto", run)
    if path not in ("auto", "none"):
        found = restore.choose(path, run) if found is None else _own(found, Path(path))
    names = {"allow_new": config.resume.allow_new, "allow_dropped": config.resume.allow_dropped}
    if found is None and any(names.values()):
        given = ", ".join(f"resume.{key}" for key, value in names.items() if value)
        raise UserError(f"expected a checkpoint to resume from with {given}, found none")
    return found


def layout(config: Config, sharded: "Sharded") -> Layout:
    """Return what decides the names and sizes of the model's tensors."""
    modules = cast(Mapping[str, Mapping[str, Any]], sharded.model.plan.plan)
    placed = {table: plan for module in modules.values() for table, plan in module.items()}
    plan = {}
    for table in config.data.columns.tables:
        ranks = placed[table].ranks or range(dist.get_world_size())
        plan[table] = f"{placed[table].sharding_type} on {','.join(map(str, sorted(set(ranks))))}"
    return Layout(list(config.tasks), sharded.inputs, config.data.columns.tables, plan)


def input_dims(config: Config, width: int) -> dict[str, list[int]]:
    """Return the dimensions of each parameter of the interaction that are as wide as its input.

    Found by building it, without memory, for two widths.

    Raises:
        UserError: if more depends on that width, so that what belongs to which input is unknown.
    """

    def build(width: int) -> tuple[Any, dict[str, list[int]]]:
        with torch.device("meta"):
            made = interaction(config.model.interaction, width, config.runtime.plugins)
        return made.out_features, {name: list(t.shape) for name, t in made.state_dict().items()}

    (height, shapes), (other_height, others) = build(width), build(width + 1)
    pairs = {n: zip(shape, others.get(n, ()), strict=False) for n, shape in shapes.items()}
    found = {n: [d for d, p in enumerate(ps) if p == (width, width + 1)] for n, ps in pairs.items()}
    wider = {n: [size + (d in found[n]) for d, size in enumerate(s)] for n, s in shapes.items()}
    if (other_height, others) != (height, wider):
        raise UserError(
            f"expected the features of the checkpoint with {config.model.interaction['_target_']}: "
            "more in it depends on the width of its input than dimensions that are as wide"
        )
    return found


def load(config: Config, sharded: "Sharded", source: Path) -> RunState:
    """Fill model and optimizers from a checkpoint that verified.

    Collective: every rank must call it.

    Raises:
        UserError: on every rank, if it does not fit.
    """
    now, saved = layout(config, sharded), state.read(source)
    check_settings(saved, config, now)
    if inputs_differ(restore.layout_of(saved), now):
        now = replace(now, input_dims=input_dims(config, sum(now.inputs.values())))
    return restore.load(
        source,
        sharded.model,
        sharded.hook,
        sharded.optimizer,
        now,
        allow_new=config.resume.allow_new,
        allow_dropped=config.resume.allow_dropped,
    )


def run_saver(
    config: Config,
    sharded: "Sharded",
    readers: tuple[ParquetReader, ParquetReader],
    run: Path,
    interrupt: Interrupt,
    source: Path | None,
) -> RunSaver | None:
    """Return what saves the run, or None where it is not saved.

    Collective: every rank must call it.

    Args:
        config: the run's configuration.
        sharded: the model.
        readers: of the training rows, and of the evaluation rows.
        run: its folder.
        interrupt: stops the run if too many saves fail.
        source: the checkpoint that the run continues from.
    """
    if not config.is_saved:
        return None
    assert sharded.hook is not None
    for part in readers:
        sources.identify(part)
    reader, evaluation = readers
    own = source if source is not None and source.parent == run / "checkpoint" else None
    settings = config.checkpoint
    saver = Saver(
        run / "checkpoint",
        sharded.model,
        sharded.optimizer,
        keep=settings.keep,
        background=settings.background,
        failed=interrupt.request,
        timeout=timedelta(seconds=config.runtime.timeout_s),
    )
    return RunSaver(
        run,
        saver,
        sharded.hook,
        layout(config, sharded),
        plain(config),
        dataset.identify_vocabularies(config.data.columns, reader.vocabularies),
        evaluation.content.plain(),
        settings,
        load=lambda found: load(config, sharded, found),
        resumed_from=-1 if own is None else checkpoints.step_of(own),
    )


def go_on(trainer: Trainer, saved: RunState, runtime: Runtime, evaluation: ParquetReader) -> None:
    """Put a trainer where a checkpoint left off.

    Collective: every rank must call it.

    Raises:
        UserError: on every rank, if the ids of the data have another meaning than those that the
            model has learned, or the position is in other rows.
    """
    check_vocabularies(saved, trainer.loader.reader)
    trainer.resume(saved)
    warn_of_evaluation(saved, evaluation)
    if saved.world_size == runtime.world_size:
        restore_random_state(saved.random[runtime.rank])
    if runtime.rank == 0:
        log.info("resumed at step %d", saved.step)


def _own(newest: Path, path: Path) -> Path:
    """Return a run's newest checkpoint, unless an older one of the same run was asked for.

    Raises:
        UserError: then; its steps could not be saved again.
    """
    asked, checkpoints = path.resolve(), newest.parent.resolve()
    if asked.parent == checkpoints and asked != newest.resolve():
        raise UserError(
            f"expected the newest checkpoint of the run, {newest}, in resume.path, got {path}; "
            "run.name=NAME continues from there in a new run"
        )
    if dist.get_rank() == 0 and checkpoints not in (asked / "checkpoint", asked.parent):
        log.info("the run has checkpoints already: continuing from them, not from %s", path)
    return newest
