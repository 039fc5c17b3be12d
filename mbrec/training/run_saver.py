"""Saves a run and marks its best step; loads a sound checkpoint when training explodes."""

import logging
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mbrec.balance import BalanceHook
from mbrec.checkpoint import folder, restore
from mbrec.checkpoint.match import Layout
from mbrec.checkpoint.saver import Saver
from mbrec.checkpoint.state import History, Progress, RunState, fingerprint
from mbrec.config.checkpoints import Checkpoints, find_best
from mbrec.training.explosion_guard import Explosion

log = logging.getLogger(__name__)

PACKAGES = ("mbrec", "torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "numpy", "pyarrow")
# A model may be spoilt some steps before its loss shows it.
STEPS_BEFORE = 5


@dataclass
class RunSaver:
    """Saves a run in its folder. Every method that writes or loads is collective.

    Attributes:
        run: the folder.
        saver: writes its checkpoints.
        config: the settings, as JSON has them.
        vocabularies: that its tables are for; see `mbrec.reader.dataset.identify_vocabularies`.
        evaluation: what the rows of the evaluations hold; see `mbrec.reader.content.Content`.
        load: fills the model and its optimizers from a checkpoint that verified.
        resumed_from: step of the run's own checkpoint that it continues from; -1 without one.
    """

    run: Path
    saver: Saver
    hook: BalanceHook
    layout: Layout
    config: dict[str, Any]
    vocabularies: dict[str, dict[str, Any]]
    evaluation: dict[str, Any]
    settings: Checkpoints
    load: Callable[[Path], object]
    resumed_from: int = -1

    def __post_init__(self) -> None:
        if self.resumed_from >= 0:
            self.saver.last_step = self.resumed_from

    def is_due(self, step: int) -> bool:
        """Return whether a periodic save is due after a step."""
        return self.settings.every is not None and step % self.settings.every == 0

    def save(self, progress: Progress, *, now: bool = False) -> None:
        """Save; in the background perhaps, or with `now` until it is on the disk.

        Raises:
            OSError: with `now` if that failed; else if too many have failed in a row.
        """
        save = self.saver.save_now if now else self.saver.save
        save(self._state(progress))

    def wait(self) -> None:
        """Wait for the save under way.

        Raises:
            OSError: if too many have failed in a row.
        """
        self.saver.wait()

    def evaluated(self, progress: Progress) -> None:
        """Take note of the last evaluation of a history; save if it is the best."""
        if (name := self.settings.best) is None:
            return
        best = find_best(progress.history, name)
        if best is None:
            if dist.get_rank() == 0:
                log.warning("no evaluation has %s yet; no checkpoint is kept as the best", name)
        elif best.step == progress.step:
            self.save(progress)
            self.wait()
            if self.saver.last_step == progress.step:
                self.saver.mark_best(best, name)
        elif self.is_enough(progress.history) and dist.get_rank() == 0:
            log.info("%s was best after step %d; stopping early", name, best.step)

    def is_enough(self, history: History) -> bool:
        """Return whether the evaluations have stopped to get better."""
        name, patience = self.settings.best, self.settings.patience
        if name is None or patience is None:
            return False
        best = find_best(history, name)
        return best is not None and best.since >= patience

    def roll_back(self, explosion: Explosion, *, load: bool) -> int | None:
        """Quarantine the checkpoints that an explosion may have spoilt; load the last sound one.

        The data continues from where it is: the rows on which training exploded are not met again.
        Returns the step that was loaded, or None.
        """
        self.wait()
        # What this process was resumed from was written before it did anything.
        last_good = max(explosion.first - STEPS_BEFORE, self.resumed_from)
        source = restore.roll_back(self.run, last_good)
        self.saver.last_step = None if source is None else folder.step_of(source)
        if source is None or not load:
            return None
        self.load(source)
        if dist.get_rank() == 0:
            log.warning("%s; ROLLED BACK to %s, continuing with later rows", explosion, source)
        return folder.step_of(source)

    def _state(self, progress: Progress) -> RunState:
        balancer = self.hook.balancer
        by_task = {
            name: dict(zip(balancer.task_names, value_K.tolist(), strict=True))
            for name, value_K in balancer.task_states().items()
        }
        return RunState(
            **vars(progress),
            tasks=self.layout.tasks,
            inputs=self.layout.inputs,
            tables=self.layout.tables,
            plan=self.layout.plan,
            world_size=dist.get_world_size(),
            random=[random_state()],
            balancer={"class": type(balancer).__name__, **by_task},
            config=self.config,
            schema_hash=fingerprint(self.config["data"]["columns"]),
            vocabularies=self.vocabularies,
            evaluation=self.evaluation,
            versions=versions(),
            time=time.time(),
        )


def random_state() -> dict[str, str]:
    """Return the states of torch's generators on this rank, in hex."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return {name: state.numpy().tobytes().hex() for name, state in states.items()}


def restore_random_state(states: Mapping[str, str]) -> None:
    """Set torch's generators on this rank.

    Raises:
        ValueError: if a state is none.
    """
    for name, text in states.items():
        try:
            state = torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
            if name == "cpu":
                torch.set_rng_state(state)
            elif torch.cuda.is_available():
                torch.cuda.set_rng_state(state)
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"expected the state of a generator ({name}): {error}") from error


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide what a model does."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
