"""Writes checkpoints, in the background if wanted, and tolerates a failure to write."""

import logging
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch.distributed as dist
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer

from mbrec.checkpoint import folder, tensors
from mbrec.checkpoint.state import RunState
from mbrec.checkpoint.tensors import Tensors
from mbrec.config.checkpoints import Best
from mbrec.distributed.agreement import first_problem, gather

log = logging.getLogger(__name__)

# Periodic saves in a row that may fail before the job stops.
MAX_FAILURES = 3
# Seconds that training waits for a save without a warning.
LONG_WAIT_S = 5.0
# Beside the tensors: JSON, and what a file system takes for files.
SPARE_BYTES = 1 << 20


class Saver:
    """Saves a run's model, optimizers and state into new folders. Every method is collective.

    Args:
        checkpoints: the folder of all checkpoints of the run.
        keep: how many of the newest checkpoints are kept.
        background: write from a copy in memory, while the caller continues.
        failed: called in the background when the last save allowed to fail has failed.
        timeout: for a rank that does not answer.

    Attributes:
        last_step: of the newest checkpoint that was written, or None.
        failures: saves that have failed in a row.
    """

    def __init__(
        self,
        checkpoints: Path,
        model: DistributedModelParallel,
        optimizer: CombinedOptimizer,
        *,
        keep: int = 2,
        background: bool = True,
        failed: Callable[[str], None] = lambda reason: None,
        timeout: timedelta | None = None,
    ) -> None:
        self.checkpoints = checkpoints
        self._model, self._optimizer = model, optimizer
        self._keep, self._background, self._failed = keep, background, failed
        # Its collectives run beside those of training, which must not mix with them.
        group = dist.new_group(backend="gloo", timeout=timeout)
        assert isinstance(group, dist.ProcessGroup)
        self._group = group
        self._under_way: tuple[int, Future[str | None]] | None = None
        self.last_step: int | None = None
        self.failures = 0

    def save(self, state: RunState) -> None:
        """Save, and return once the tensors are copied; a failure shows in the next call.

        Args:
            state: of this rank; rank 0's is written, with the random states of all.

        Raises:
            OSError: on every rank, if too many saves have failed in a row.
        """
        waited = time.perf_counter()
        self.wait()
        waited = time.perf_counter() - waited
        if waited > LONG_WAIT_S and self._is_first:
            log.warning("training waited %.0f s for the save before; save less often", waited)
        if state.step == self.last_step:
            return
        begun = time.perf_counter()
        found = {"": tensors.collect(self._model, self._optimizer)}
        if not self._background:
            self._finish(state.step, self._write(state, found[""], 0.0))
            return
        staged: dict[str, Tensors] = BlockingAsyncStager().stage(found)
        # Training stands still until here.
        copied = time.perf_counter() - begun
        self._under_way = state.step, _in_background(lambda: self._write(state, staged[""], copied))

    def wait(self) -> None:
        """Wait for the save under way.

        Raises:
            OSError: on every rank, if too many saves have failed in a row.
        """
        if self._under_way is not None:
            (step, future), self._under_way = self._under_way, None
            self._finish(step, future.result())

    def save_now(self, state: RunState) -> None:
        """Save, and return when it is on the disk.

        Raises:
            OSError: on every rank, if it failed.
        """
        self.save(state)
        self.wait()
        if self.last_step != state.step:
            raise OSError(f"step {state.step} could not be saved; what was saved before is intact")

    def mark_best(self, best: Best, name: str) -> None:
        """Keep the checkpoint of a step as the best so far; its folder is never pruned."""
        self.wait()
        mark = partial(folder.mark_best, self.checkpoints, best.step, name, best.value)
        if (problem := self._on_rank_0(mark)) and self._is_first:
            log.warning("the best checkpoint could not be marked: %s", problem)

    def _finish(self, step: int, problem: str | None) -> None:
        if problem is None:
            self.last_step, self.failures = step, 0
            return
        self.failures += 1
        if self.failures >= MAX_FAILURES:
            raise OSError(f"{self.failures} checkpoints in a row could not be written: {problem}")

    def _write(self, state: RunState, found: Tensors, copied: float) -> str | None:
        """Write a checkpoint; return what went wrong, on every rank the same."""
        begun = time.perf_counter()
        target = folder.step_folder(self.checkpoints, state.step)
        unfinished = target.with_name(target.name + folder.UNFINISHED)
        problem = (
            self._prepare(unfinished, target, found)
            or first_problem(lambda: tensors.write(unfinished, found, self._group), self._group)
            or self._publish(state, unfinished, target)
        )
        if problem is not None:
            self._give_up(state.step, unfinished, problem)
            return problem
        # It is whole, whatever becomes of older ones.
        pruning = self._on_rank_0(lambda: folder.prune(self.checkpoints, keep=self._keep))
        if self._is_first:
            if pruning:
                log.warning("older checkpoints could not be deleted: %s", pruning)
            written = time.perf_counter() - begun
            log.info("saved %s, copied in %.3f s, written in %.2f s", target, copied, written)
        return None

    def _prepare(self, unfinished: Path, target: Path, found: Tensors) -> str | None:
        needed = sum(gather(tensors.num_bytes(found), self._group)) + SPARE_BYTES

        def make() -> None:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            for path in folder.leftovers(self.checkpoints):
                folder.delete(path)
            if target.exists():
                raise OSError(f"{target}: expected a new folder, got one that is there")
            free = shutil.disk_usage(self.checkpoints).free
            if free < needed:
                raise OSError(
                    f"{self.checkpoints}: expected {needed:,} free bytes, got {free:,}; make room, "
                    "or lower checkpoint.keep"
                )
            unfinished.mkdir()

        return self._on_rank_0(make)

    def _publish(self, state: RunState, unfinished: Path, target: Path) -> str | None:
        files: dict[str, folder.File] = {}
        own = f"__{dist.get_rank(self._group)}_*"

        def describe() -> None:
            files.update({path.name: folder.describe(path) for path in unfinished.glob(own)})

        if problem := first_problem(describe, self._group):
            return problem
        parts = gather((files, state.random[0]), self._group)

        def finish() -> None:
            state.random = [random for _, random in parts]
            state.write(unfinished)
            for name in (folder.STATE, folder.METADATA):
                files[name] = folder.describe(unfinished / name)
            for of_rank, _ in parts:
                files.update(of_rank)
            folder.write_manifest(unfinished, files)
            folder.publish(unfinished, target)

        return self._on_rank_0(finish)

    @property
    def _is_first(self) -> bool:
        return dist.get_rank(self._group) == 0

    def _on_rank_0(self, work: Callable[[], object]) -> str | None:
        """Let rank 0 do something; return what went wrong, on every rank."""
        return first_problem(work if self._is_first else lambda: None, self._group)

    def _give_up(self, step: int, unfinished: Path, problem: str) -> None:
        if self._is_first:
            shutil.rmtree(unfinished, ignore_errors=True)
            log.error("checkpoint of step %d could not be written: %s", step, problem)
        if self.failures + 1 >= MAX_FAILURES:
            self._failed(problem)


def _in_background(part: Callable[[], str | None]) -> "Future[str | None]":
    """Start a thread that does not keep a process alive whose peers are gone."""
    future: Future[str | None] = Future()

    def run() -> None:
        try:
            future.set_result(part())
        except BaseException as error:  # raised again in the caller's thread
            future.set_exception(error)

    threading.Thread(target=run, name="checkpoint", daemon=True).start()
    return future
