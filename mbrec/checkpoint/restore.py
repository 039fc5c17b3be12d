"""Chooses the checkpoint to resume from, and loads it: exactly, or not at all."""

import logging
from collections.abc import Collection
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer

from mbrec.balance import BalanceHook
from mbrec.checkpoint import folder, match, state, tensors
from mbrec.checkpoint.match import BALANCER, Layout
from mbrec.checkpoint.state import RunState
from mbrec.distributed.agreement import from_rank_0, gather

log = logging.getLogger(__name__)


def choose(path: str, run: Path) -> Path | None:
    """Return the checkpoint to resume from, verified, or None to start from scratch.

    Newer ones that do not verify are quarantined with a warning. Collective: every rank must call
    it.

    Args:
        path: see `mbrec.config.checkpoints.Resume`.
        run: folder of this run.

    Raises:
        ValueError: on every rank, if there is none where one was asked for, or none is whole.
    """
    if path == "none":
        return None
    own = path == "auto"
    source = run if own else Path(path)
    if not own and not from_rank_0(source.is_dir):
        raise ValueError(f"expected a checkpoint or the folder of a run in resume.path, got {path}")
    if from_rank_0(lambda: source in folder.finished(source.parent)):
        _refuse(verify_together(source))
        return source
    found = newest(source, quarantine=own, needed=not own)
    if found is None and (quarantined := folder.quarantined(source / "checkpoint")):
        name = quarantined[-1].name
        raise ValueError(
            f"expected a checkpoint in {source}, found only {name}, which is quarantined; rename "
            f"it to {name.partition('.')[0]} to resume from it all the same, or take another "
            "run.name"
        )
    return found


def newest(run: Path, *, quarantine: bool = False, needed: bool = True) -> Path | None:
    """Return the newest checkpoint of a run that verifies. Collective: every rank must call it.

    Args:
        run: its folder.
        quarantine: rename those that do not verify, so that their steps can be saved again.
        needed: whether it is an error if there is none at all.

    Raises:
        ValueError: on every rank, if none is whole, or there is none and one is needed.
    """
    checkpoints = run / "checkpoint"
    found = from_rank_0(lambda: folder.finished(checkpoints))
    source, problems = folder.newest_verified(found, verify_together)
    if source is None:
        _refuse(problems)
        if needed:
            raise ValueError(f"expected a checkpoint in {checkpoints}, found none")
        return None
    if problems and dist.get_rank() == 0:
        lines = ["FELL BACK to an older checkpoint, since newer ones are damaged:", *problems]
        lines.append(f"resuming from {source}; the steps after it are trained again")
        log.warning("%s", "\n  ".join(lines))
        for path in found[found.index(source) + 1 :] if quarantine else ():
            folder.quarantine(path, folder.DAMAGED)
    return source


def verify_together(source: Path) -> list[str]:
    """Return what is wrong with a checkpoint; each rank hashes its share.

    Collective: every rank must call it.
    """
    if dist.get_rank() == 0:
        log.info("verifying %s", source)  # large ones take minutes
    try:
        names = sorted(folder.read_manifest(source))
        problems = folder.verify(source, only=names[dist.get_rank() :: dist.get_world_size()])
    except (OSError, ValueError) as error:
        problems = [str(error)]
    return list(dict.fromkeys(problem for part in gather(problems) for problem in part))


def load(
    source: Path,
    model: DistributedModelParallel,
    hook: BalanceHook | None,
    optimizer: CombinedOptimizer | None,
    now: Layout,
    *,
    allow_new: Collection[str] = (),
    allow_dropped: Collection[str] = (),
) -> RunState:
    """Fill a model from a checkpoint that verified; return what that holds beside tensors.

    Plan and number of ranks may be others. Collective: every rank must call it.

    Args:
        source: the checkpoint's folder.
        model: sharded.
        hook: its hook.
        optimizer: its optimizers; None loads the model alone.
        now: the model's layout.
        allow_new: what the checkpoint may lack; it stays as it is.
        allow_dropped: what only the checkpoint has.

    Raises:
        ValueError: on every rank and before anything is changed, if it does not fit.
    """
    saved_state = state.read(source)
    before = layout_of(saved_state)
    saved = tensors.inspect(source)
    own = tensors.collect(model, optimizer)
    wanted = "model." if optimizer is None else ""
    sizes = {name: size for name, size in saved.sizes.items() if name.startswith(wanted)}
    matched = match.match(
        sizes, _sizes(own), before, now, allow_new=allow_new, allow_dropped=allow_dropped
    )
    balancer = [name for name in sizes if name.startswith(BALANCER)]
    resized = [name for name, along in matched.items() if along]
    held = {n: torch.zeros(sizes[n], dtype=saved.dtypes[n]) for n in [*resized, *balancer]}
    state_dict = {"balancer." + name.removeprefix(BALANCER): held[name] for name in balancer}
    if hook is not None:
        # Refuses what does not fit before a tensor is read, by names and sizes.
        _check_balancer(hook, saved_state, state_dict, now)
    tensors.read(source, {name: own[name] for name in matched if name in own} | held)
    for name in own.keys() & set(resized):
        match.copy_kept(held[name], own[name], matched[name], before, now)
    if hook is not None:
        hook.load_state_dict(_adapted(hook, state_dict, before, now))
    return saved_state


def layout_of(saved: RunState) -> Layout:
    """Return the layout of the model that a checkpoint is of."""
    return Layout(saved.tasks, saved.inputs, saved.tables, saved.plan)


def roll_back(run: Path, last_good: int) -> Path | None:
    """Quarantine the checkpoints after the last sound step; return the newest that is left.

    Collective: every rank must call it.
    """

    def quarantine_late() -> None:
        for source in folder.finished(run / "checkpoint"):
            if folder.step_of(source) > last_good:
                log.warning("quarantined %s", folder.quarantine(source, folder.EXPLODED))

    from_rank_0(quarantine_late)
    return newest(run, quarantine=True, needed=False)


def _adapted(
    hook: BalanceHook, state_dict: dict[str, Tensor], before: Layout, now: Layout
) -> dict[str, Tensor]:
    new, dropped = set(now.tasks) - set(before.tasks), set(before.tasks) - set(now.tasks)
    return hook.adapt_state_dict(state_dict, new=new, dropped=dropped)


def _check_balancer(
    hook: BalanceHook, saved: RunState, state_dict: dict[str, Tensor], now: Layout
) -> None:
    own, before = hook.state_dict(), layout_of(saved)
    here, there = type(hook.balancer).__name__, saved.balancer.get("class")
    if here != there and (own or state_dict):
        raise ValueError(
            f"expected a checkpoint of the balancer {here}, got one of {there}: the state of "
            "another method does not load"
        )
    for name, value in sorted(_adapted(hook, state_dict, before, now).items()):
        if value.shape != own[name].shape:
            raise ValueError(
                f"expected size {list(own[name].shape)} of {name}, got {list(value.shape)}: the "
                f"state of {here} belongs to the parameters that it balances at (hook.at)"
            )
        if value.dim() and match.inputs_differ(before, now):
            raise ValueError(
                f"expected the inputs of the checkpoint ({', '.join(before.inputs)}) with {here}, "
                f"whose state {name} has an entry for each parameter, got {', '.join(now.inputs)}"
            )


def _sizes(own: tensors.Tensors) -> dict[str, tuple[int, ...]]:
    """Return the sizes of the tensors of all ranks: a table's state is where the table is."""
    here = {name: tensors.size_of(value) for name, value in own.items()}
    return {name: size for part in gather(here) for name, size in part.items()}


def _refuse(problems: list[str]) -> None:
    if problems:
        raise ValueError("expected a checkpoint that is whole, got\n  " + "\n  ".join(problems))
