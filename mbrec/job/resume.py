"""The folder of a run, and the checkpoint that it goes on from."""

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer

from mbrec.balance import BalanceHook
from mbrec.checkpoint import folder as checkpoints
from mbrec.checkpoint import restore, state
from mbrec.checkpoint.match import Layout, inputs_differ
from mbrec.checkpoint.saver import Saver
from mbrec.checkpoint.state import RunState, differences
from mbrec.columns.schema import Categorical, Numerical
from mbrec.config.instantiate import interaction
from mbrec.config.settings import Config
from mbrec.distributed.agreement import from_rank_0
from mbrec.distributed.interrupt import Interrupt
from mbrec.distributed.process import Runtime
from mbrec.files import atomic
from mbrec.job import readers as sources
from mbrec.job import run_lock
from mbrec.reader import dataset
from mbrec.reader.content import Content
from mbrec.reader.parquet import ParquetReader
from mbrec.training.run_saver import RunSaver, restore_random_state
from mbrec.training.trainer import Trainer

log = logging.getLogger(__name__)

# Folders of a run that files are added to.
WRITTEN = ("checkpoint", "tensorboard")
# Settings that say how a run is carried out, not what it computes.
OUTSIDE = ("run.", "resume.", "monitor.", "runtime.", "checkpoint.")


def run_folder(config: Config) -> Path:
    """Return the folder of this run, the same on every rank; rank 0 makes it.

    Raises:
        ValueError: on every rank, if a finished run is there, or a restart could not find it.
    """
    return from_rank_0(lambda: _new_folder(config))


def _new_folder(config: Config) -> Path:
    """Make and lock the folder of a run.

    Raises:
        ValueError: if this job may not write to it.
    """
    folder = Path(config.run.folder) / run_name(config)
    # A measurement would end a run that is under way.
    anew = config.resume.path == "none" or config.trainer.measure_overhead
    begun = (folder / "checkpoint").exists() and anew
    try:
        if begun or (folder / "metrics.json").exists():
            more = f"run.name=NEW resume.path={folder} goes on from it"
            raise ValueError(f"{folder} holds one; {more}")
        folder.mkdir(parents=True, exist_ok=True)
        atomic.check_no_links(folder, *WRITTEN)
        if not run_lock.take(folder):
            raise ValueError(f"another job is writing to {folder}; wait for it, or stop it")
    except ValueError as error:
        raise ValueError(f"expected a new run, got run.name={folder.name}: {error}") from error
    return folder


def run_name(config: Config) -> str:
    """Return the name of a run or of a sweep; without one, the time, which each rank has its own.

    Raises:
        ValueError: if a restart could not find it.
    """
    name = config.run.name or os.environ.get("MBREC_RUN_ID")
    if name is None and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
        raise ValueError(
            "expected run.name=NAME (or MBREC_RUN_ID) with --max-restarts, got none: a restart has "
            "to find the run that it goes on with"
        )
    return name or time.strftime("%Y-%m-%d_%H-%M-%S")


def source(config: Config, run: Path) -> Path | None:
    """Return the checkpoint that a run goes on from, or None. A collective.

    Raises:
        ValueError: on every rank, if there is none where one was asked for, or none is whole.
    """
    path = config.resume.path
    # A restart, by the same command, goes on with what the run itself has saved since.
    found = restore.choose("none" if path == "none" else "auto", run)
    if path not in ("auto", "none"):
        found = restore.choose(path, run) if found is None else _own(found, Path(path))
    names = {"allow_new": config.resume.allow_new, "allow_dropped": config.resume.allow_dropped}
    if found is None and any(names.values()):
        given = ", ".join(f"resume.{key}" for key, value in names.items() if value)
        raise ValueError(f"expected a checkpoint to resume from with {given}, found none")
    return found


class _Sharded(Protocol):
    """A model on its ranks; see `mbrec.job.build.Sharded`."""

    @property
    def model(self) -> DistributedModelParallel: ...
    @property
    def hook(self) -> BalanceHook | None: ...
    @property
    def optimizer(self) -> CombinedOptimizer: ...
    @property
    def inputs(self) -> dict[str, int]: ...


def layout(config: Config, sharded: _Sharded) -> Layout:
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
        ValueError: if more depends on that width, so that nobody knows what belongs to which input.
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
        raise ValueError(
            f"expected the features of the checkpoint with {config.model.interaction['_target_']}: "
            "more in it depends on the width of its input than dimensions that are as wide"
        )
    return found


def load(config: Config, sharded: _Sharded, source: Path) -> RunState:
    """Fill model and optimizers from a checkpoint that verified. A collective.

    Raises:
        ValueError: on every rank, if it does not fit.
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
    sharded: _Sharded,
    readers: tuple[ParquetReader, ParquetReader],
    run: Path,
    interrupt: Interrupt,
    source: Path | None,
) -> RunSaver | None:
    """Return what saves the run, or None where it is not saved. A collective.

    Args:
        config: of the run.
        sharded: the model.
        readers: of the training rows, and of the evaluation rows.
        run: its folder.
        interrupt: to be asked to stop if too many saves fail.
        source: the checkpoint that the run goes on from.
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
    """Put a trainer where a checkpoint left off. A collective.

    Args:
        trainer: to put there.
        saved: the checkpoint's state.
        runtime: this process.
        evaluation: reader of the evaluation rows.

    Raises:
        ValueError: on every rank, if the ids of the data have another meaning than those that the
            model has learned, or the position is in other rows.
    """
    check_vocabularies(saved, trainer.loader.reader)
    trainer.resume(saved)
    warn_of_evaluation(saved, evaluation)
    if saved.world_size == runtime.world_size:
        restore_random_state(saved.random[runtime.rank])
    if runtime.rank == 0:
        log.info("resumed at step %d", saved.step)


def check_vocabularies(saved: RunState, reader: ParquetReader) -> None:
    """Compare the vocabularies of the data with those of a checkpoint. A collective.

    Raises:
        ValueError: on every rank, if rank 0 finds that some differ.
    """

    def check() -> None:
        remedy = (
            "give the data that the model was trained on (data.path), or name the features in "
            "resume.allow_dropped and, under other names, in resume.allow_new"
        )
        unknown = dataset.check_vocabularies(
            reader.columns, reader.vocabularies, saved.vocabularies, remedy
        )
        known = saved.config["data"]["columns"]["categorical"]
        if old := [name for name in unknown if name in known]:
            log.warning("%s", dataset.describe_unknown(old))

    from_rank_0(check)


def warn_of_evaluation(saved: RunState, reader: ParquetReader) -> None:
    """Say so if the evaluations before and after a resume do not compare.

    Raises:
        ValueError: if the checkpoint does not say what they were made on.
    """
    if not (saved.evaluation and saved.history):
        return
    differences = Content.parse(saved.evaluation).differences(reader.content)
    if differences and reader.rank == 0:
        log.warning(
            "the evaluations before this one were made on other rows, and their figures do not "
            "compare with later ones (checkpoint.best and patience do compare them): %s differ",
            "; ".join(differences),
        )


def plain(config: Config) -> dict[str, Any]:
    """Return the settings as JSON has them."""
    content: Any = OmegaConf.to_container(
        OmegaConf.structured(config), enum_to_str=True, resolve=True
    )
    return content


def check_settings(saved: RunState, config: Config, now: Layout) -> None:
    """Compare the settings of a checkpoint with those of the run that goes on from it.

    What changes the meaning of what was learned is refused; the rest is told.

    Raises:
        ValueError: naming each feature that is read in another way than it was.
    """
    current = plain(config)
    check_features(saved, current)
    if dist.get_rank() != 0:
        return
    told = [d for d in differences(saved.config, current) if not d.startswith(OUTSIDE)]
    if told:
        log.warning("resumed with other settings than it was saved with:\n  %s", "\n  ".join(told))
    if saved.world_size != dist.get_world_size():
        log.warning(
            "resumed on %d ranks, saved on %d: random states begin anew, the rest is the same",
            dist.get_world_size(),
            saved.world_size,
        )
    if saved.plan != now.plan:
        log.info("tables are moved: %s -> %s", saved.plan, now.plan)


def check_features(saved: RunState, current: Mapping[str, Any]) -> None:
    """Compare how features are read with how they were when a checkpoint was saved.

    Args:
        saved: what the checkpoint holds.
        current: settings of a run, as JSON has them.

    Raises:
        ValueError: naming each feature that is read in another way than it was.
    """
    try:
        changed = _changed_features(saved.config["data"]["columns"], current["data"]["columns"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"expected the columns of a run in its checkpoint, got none: {error}"
        ) from error
    if changed:
        raise ValueError(
            "expected the features of the checkpoint, whose ids and scales the model has learned, "
            "got others:\n  " + "\n  ".join(changed)
        )


def _changed_features(before: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    found = []
    for kind, features in (("categorical", Categorical), ("numerical", Numerical)):
        both = [name for name in before[kind] if name in here[kind]]
        # What an earlier release could not say had the meaning that is the default now.
        default = OmegaConf.to_container(OmegaConf.structured(features), enum_to_str=True)
        old = {name: {**cast(dict[str, Any], default), **before[kind][name]} for name in both}
        found += differences(old, {name: here[kind][name] for name in both})
    if list(before["numerical"]) != list(here["numerical"]):
        found.append(f"numerical: {list(before['numerical'])} -> {list(here['numerical'])}")
    return found


def _own(newest: Path, path: Path) -> Path:
    """Return a run's newest checkpoint, unless an older one of the same run was asked for.

    Raises:
        ValueError: then; its steps could not be saved again.
    """
    asked, checkpoints = path.resolve(), newest.parent.resolve()
    if asked.parent == checkpoints and asked != newest.resolve():
        raise ValueError(
            f"expected the newest checkpoint of the run, {newest}, in resume.path, got {path}; "
            "run.name=NAME goes on from there in a new run"
        )
    if dist.get_rank() == 0 and checkpoints not in (asked / "checkpoint", asked.parent):
        log.info("the run has checkpoints already: going on with them, not with %s", path)
    return newest
